//! What is JSON: RFC 8259 by hand-made cases, beside serde_json's value and Python's json; and no reply is larger than
//! its request but the error reply.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use echo_udpd::admission::{Admission, Policy};
use echo_udpd::handler::{DatagramRequestHandler, EchoRequestHandler};
use echo_udpd::protocol::RawJsonProtocol;
use echo_udpd::serializer::RawJson;
use echo_udpd::server::engine::Engine;
use echo_udpd::socket::{Datagram, Destination, Flow};
use serde_json::Value;

use crate::harness::{Daemon, Running, ask, connected, has_program, need};

const ERROR_REPLY: &[u8] = br#"{"error":"Invalid JSON","code":"parse_error"}"#;

/// Texts within the grammar.
const VALID: &[&[u8]] = &[
    b"null",
    b"true",
    b"false",
    b"0",
    b"-0",
    b"1",
    b"-1",
    b"10",
    b"1.0",
    b"-1.5",
    b"0.0",
    b"-0.0",
    b"0.000001",
    b"1e1",
    b"1E1",
    b"1e+1",
    b"1E-1",
    b"0e0",
    b"0E+0",
    b"-0e-0",
    b"1.5e300",
    b"123456789012345678901234567890",
    b"-123456789012345678901234567890",
    b"0.12345678901234567890123456789",
    b"9007199254740993",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"\"\"",
    b"\" \"",
    b"\"a\"",
    b"\"\\\"\"",
    b"\"\\\\\"",
    b"\"\\/\"",
    b"\"/\"",
    b"\"\\b\\f\\n\\r\\t\"",
    b"\"\\u0000\"",
    b"\"\\u001f\"",
    b"\"\\u00e9\"",
    b"\"\\u00E9\"",
    b"\"\\uFFFF\"",
    b"\"\\ud83d\\ude00\"",
    b"\"\\uD83D\\uDE00\"",
    b"\"\x7f\"",
    b"\"\xc2\x80\"",
    b"\"\xc3\xa9\"",
    b"\"\xe2\x82\xac\"",
    b"\"\xe2\x80\xa8\xe2\x80\xa9\"",
    b"\"\xef\xbb\xbf\"",
    b"\"\xef\xbf\xbf\"",
    b"\"\xf0\x9f\x98\x80\"",
    b"\"\xf4\x8f\xbf\xbf\"",
    b"\"\xed\x9f\xbf\"",
    b"\"\xee\x80\x80\"",
    b"[]",
    b"[ ]",
    b"[\n]",
    b"[1]",
    b"[1,2]",
    b"[ 1 , 2 ]",
    b"[[]]",
    b"[[],[]]",
    b"[null,true,false,1,\"\",[],{}]",
    b"{}",
    b"{ }",
    b"{\"a\":1}",
    b"{\"a\":1,\"b\":2}",
    b"{ \"a\" : 1 , \"b\" : 2 }",
    b"{\"a\":{\"a\":{}}}",
    b"{\"\":0}",
    b"{\"a\":1,\"a\":2}",
    b"{\"a\":1,\"\\u0061\":2}",
    b"{\"b\":1,\"a\":2}",
    b"{\"\\\"\":1}",
    b" 1",
    b"1 ",
    b"\t1",
    b"1\t",
    b"\n1\n",
    b"\r\n1\r\n",
    b" \t\r\n1 \t\r\n",
    b"{\"a\":1}\n",
    b"\n{\n\"a\"\n:\n1\n}\n",
    b"[\"]\"]",
    b"{\"}\":\"{\"}",
    b"[1e308,-1e308]",
    b"[0,0.0,0e0]",
    b"{\"long\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}",
];

/// Texts within the grammar that serde_json's value refuses: numbers beyond f64 and lone surrogates.
const VALID_BUT_NO_VALUE: &[&[u8]] = &[
    b"1e400",
    b"-1e400",
    b"[1e999999]",
    b"\"\\ud800\"",
    b"\"\\udc00\"",
    b"\"\\ude00\\ud83d\"",
    b"\"\\ud800\\ud800\"",
    b"\"\\ud83dx\"",
    b"{\"\\ud800\":1}",
];

/// Texts outside the grammar.
const INVALID: &[&[u8]] = &[
    b"",
    b" ",
    b"\n",
    b"\t\r\n ",
    b"\0",
    b"1\0",
    b"\x001",
    b"{\"a\":1}\0",
    b"nul",
    b"nulll",
    b"Null",
    b"NULL",
    b"tru",
    b"True",
    b"truefalse",
    b"undefined",
    b"NaN",
    b"-NaN",
    b"Infinity",
    b"-Infinity",
    b"inf",
    b"+1",
    b"--1",
    b"-",
    b".5",
    b"1.",
    b"-.5",
    b"1.e1",
    b"01",
    b"-01",
    b"00",
    b"0x10",
    b"0b1",
    b"1_000",
    b"1,000",
    b"1e",
    b"1e+",
    b"1E-",
    b"1e1.5",
    b"1 2",
    b"1,2",
    b"1f",
    b"1n",
    b"\"",
    b"\"a",
    b"a\"",
    b"'a'",
    b"\"\\\"",
    b"\"\\x41\"",
    b"\"\\'\"",
    b"\"\\0\"",
    b"\"\\u\"",
    b"\"\\u12\"",
    b"\"\\u123\"",
    b"\"\\u123g\"",
    b"\"\\U0041\"",
    b"\"\n\"",
    b"\"\r\"",
    b"\"\t\"",
    b"\"\0\"",
    b"\"\x1f\"",
    b"\"\\\n\"",
    b"\"\" \"\"",
    b"[",
    b"]",
    b"[1",
    b"1]",
    b"[1,]",
    b"[,1]",
    b"[,]",
    b"[1,,2]",
    b"[1 2]",
    b"[1;2]",
    b"[1}",
    b"[]]",
    b"[[]",
    b"{",
    b"}",
    b"{]",
    b"{}}",
    b"{1:1}",
    b"{a:1}",
    b"{'a':1}",
    b"{\"a\"}",
    b"{\"a\":}",
    b"{\"a\" 1}",
    b"{\"a\":1,}",
    b"{,\"a\":1}",
    b"{\"a\":1 \"b\":2}",
    b"{\"a\":1,,\"b\":2}",
    b"{\"a\"::1}",
    b"{null:1}",
    b"{\"a\":1]",
    b"{}[]",
    b"{}{}",
    b"[][]",
    b"// comment\n1",
    b"/* comment */1",
    b"1 // comment",
    b"1#",
    b"\x0b1",
    b"\x0c1",
    b"1\x0c",
    b"\xc2\xa01",
    b"\xe2\x80\x831",
    b"\xef\xbb\xbf1",
    b"\xef\xbb\xbf{}",
    b"\xff\xfe1\0",
    b"\x00\x301",
    b"1\0\0\0",
    b"\xff",
    b"\x80",
    b"\"\x80\"",
    b"\"\xbf\"",
    b"\"\xc0\x80\"",
    b"\"\xc1\xbf\"",
    b"\"\xc3\"",
    b"\"\xc3(\"",
    b"\"\xe2\x82\"",
    b"\"\xe2(\xa1\"",
    b"\"\xe0\x80\x80\"",
    b"\"\xed\xa0\x80\"",
    b"\"\xed\xbf\xbf\"",
    b"\"\xf0\x9f\x98\"",
    b"\"\xf0\x80\x80\x80\"",
    b"\"\xf4\x90\x80\x80\"",
    b"\"\xf5\x80\x80\x80\"",
    b"\"\xf8\x88\x80\x80\x80\"",
    b"\"\xfe\"",
    b"\"\xff\"",
    b"{\"\xff\":1}",
    b"hello",
    b"<a/>",
    b"key=value",
    b"\x1b[31m",
    b"GET / HTTP/1.1\r\n\r\n",
];

/// Depths that a value does not reach: serde_json's stops at 128.
fn deep() -> Vec<(Vec<u8>, bool)> {
    let nested =
        |open: &str, close: &str, depth: usize| [open.repeat(depth), close.repeat(depth)].concat().into_bytes();
    let mut texts = Vec::new();
    for depth in [129, 1000, 30_000] {
        texts.push((nested("[", "]", depth), true));
        texts.push((nested("[", "]", depth)[1..].to_vec(), false));
        texts.push((nested("[", "]", depth)[..2 * depth - 1].to_vec(), false));
    }
    let objects = [&b"{\"a\":".repeat(10_000)[..], b"1", &b"}".repeat(10_000)].concat();
    texts.push((objects.clone(), true));
    texts.push((objects[..objects.len() - 1].to_vec(), false));
    // What fits no datagram is still a packet of the library's.
    texts.push((nested("[", "]", 60_000), true));
    texts
}

/// Every case, and whether it is JSON.
fn cases() -> Vec<(Vec<u8>, bool)> {
    let of = |texts: &[&[u8]], valid| texts.iter().map(move |text| (text.to_vec(), valid)).collect::<Vec<_>>();
    [of(VALID, true), of(VALID_BUT_NO_VALUE, true), of(INVALID, false), deep()].concat()
}

fn is_json(text: &[u8]) -> bool {
    RawJson::parse(Bytes::copy_from_slice(text)).is_ok()
}

#[test]
fn what_is_accepted_is_what_rfc_8259_has() {
    let cases = cases();
    assert!(cases.len() >= 230, "{} cases", cases.len());
    for (text, valid) in cases {
        assert_eq!(is_json(&text), valid, "{}", text[..text.len().min(80)].escape_ascii());
    }
}

#[test]
fn serde_jsons_value_differs_only_where_it_is_known_to() {
    let known: Vec<Vec<u8>> =
        VALID_BUT_NO_VALUE.iter().map(|text| text.to_vec()).chain(deep().into_iter().map(|d| d.0)).collect();
    for (text, valid) in cases() {
        let value = serde_json::from_slice::<Value>(&text).is_ok();
        let differs = value != valid;
        assert!(!differs || known.contains(&text), "{}", text[..text.len().min(80)].escape_ascii());
        assert!(!differs || valid, "a value is never of what is no JSON");
    }
    assert!(VALID_BUT_NO_VALUE.iter().all(|text| serde_json::from_slice::<Value>(text).is_err()));
}

/// Reads hexadecimal texts, says of each whether Python's json takes it.
const PYTHON: &str = r#"
import json, sys
def refuse(name):
    raise ValueError(name)
for line in sys.stdin:
    try:
        json.loads(bytes.fromhex(line).decode("utf-8"), parse_constant=refuse)
        print(1)
    except RecursionError:
        print(2)
    except ValueError:
        print(0)
"#;

#[test]
fn pythons_json_differs_only_in_depth() {
    need!(has_program("python3"), "python3");
    let cases = cases();
    let hexadecimal = |text: &[u8]| text.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    let input: String = cases.iter().map(|(text, _)| hexadecimal(text)).collect();
    let verdicts =
        Running::with_input(Command::new("python3").args(["-c", PYTHON]), input.as_bytes()).finish().success();
    assert_eq!(verdicts.lines().count(), cases.len());
    for ((text, valid), verdict) in cases.iter().zip(verdicts.lines()) {
        // 2: it gave up on the depth. Its NaN and Infinity are turned off, and bytes are decoded as UTF-8 first.
        let differs = verdict != "2" && (verdict == "1") != *valid;
        assert!(!differs, "{}", text[..text.len().min(80)].escape_ascii());
    }
}

/// Every case that fits a datagram, and every input that the fuzzer kept.
fn datagrams() -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let folders = std::fs::read_dir(corpus).unwrap().map(|folder| folder.unwrap().path());
    let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()));
    let fuzzed = files.map(|file| std::fs::read(file).unwrap());
    cases().into_iter().map(|(text, _)| text).filter(|text| text.len() <= 65_507).chain(fuzzed).collect()
}

/// What a datagram gets: itself, or the error reply, as a line where it was one, or nothing.
fn expected_reply(datagram: &[u8]) -> Option<Vec<u8>> {
    let is_line = datagram.ends_with(b"\n");
    if datagram.strip_suffix(b"\n").unwrap_or(datagram) == ERROR_REPLY {
        None
    } else if is_json(datagram) {
        Some(datagram.to_vec())
    } else {
        Some([ERROR_REPLY, if is_line { b"\n" } else { b"" }].concat())
    }
}

#[test]
fn no_reply_of_the_engine_is_larger_than_its_request_but_the_error_reply() {
    let handler = EchoRequestHandler::<RawJson>::new();
    let admission = Arc::new(Admission::new([9000], &Policy::open()));
    let local = [203, 0, 113, 1].into();
    let mut engine = Engine::new(RawJsonProtocol::default(), admission, (local, 9000).into(), |client, requests| {
        handler.handle(client, requests)
    });
    for datagram in datagrams() {
        let destination = Some(Destination { address: local, local, interface: 1 });
        let flow = Flow { peer: ([192, 0, 2, 1], 40_000).into(), destination };
        engine.receive([Datagram::new(flow, Bytes::from(datagram.clone()))], std::time::Instant::now());
        let replies = std::mem::take(engine.outgoing());
        let expected = expected_reply(&datagram);
        assert_eq!(replies.len(), usize::from(expected.is_some()));
        assert_eq!(replies.first().map(|reply| reply.outgoing.payload.to_vec()), expected);
    }
}

#[test]
fn no_reply_on_the_wire_is_larger_than_its_request_but_the_error_reply() {
    let daemon =
        Daemon::with_settings("[rate-limit]\nper-second = 0\nerror-replies-per-second = 0\n[log]\nrequests = false");
    let client = connected(daemon.at("127.0.0.1"));
    for datagram in datagrams() {
        let Some(expected) = expected_reply(&datagram) else { continue };
        assert_eq!(ask(&client, &datagram), expected, "{}", datagram[..datagram.len().min(80)].escape_ascii());
    }
}
