//! Tests against the real programs: each file has one subject, `harness` starts and stops what they talk to.
//!
//! What needs root, a network namespace or another program skips visibly where that is missing, and fails instead when
//! `CI=true`.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic anywhere")]

mod harness;

mod addresses;
mod batches;
mod client_program;
mod daemon;
mod easynetwork;
mod examples;
mod house;
mod inherited;
mod json;
mod library_client;
mod library_engine;
mod library_lifecycle;
mod library_server;
mod library_services;
mod listeners;
mod log;
mod neighbours;
mod netcat;
mod notify;
mod packaging;
mod protocols;
mod recipes;
mod restricted;
mod settings;
mod settings_source;
mod socket_names;
mod spoof;
mod stalls;
mod style;
mod systemd;
mod volume;
