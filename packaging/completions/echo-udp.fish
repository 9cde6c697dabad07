# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_echo_udp_global_optspecs
    string join \n h/help V/version
end

function __fish_echo_udp_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_echo_udp_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_echo_udp_using_subcommand
    set -l cmd (__fish_echo_udp_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c echo-udp -n "__fish_echo_udp_needs_command" -s h -l help -d 'Print help'
complete -c echo-udp -n "__fish_echo_udp_needs_command" -s V -l version -d 'Print version'
complete -c echo-udp -n "__fish_echo_udp_needs_command" -f -a "send" -d 'Send one packet and print it with its reply'
complete -c echo-udp -n "__fish_echo_udp_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c echo-udp -n "__fish_echo_udp_using_subcommand send" -l host -d 'The server\'s name or address' -r -f -a "(__fish_print_hostnames)"
complete -c echo-udp -n "__fish_echo_udp_using_subcommand send" -l port -d 'The server\'s port' -r
complete -c echo-udp -n "__fish_echo_udp_using_subcommand send" -s W -d 'Seconds to wait for the reply, for each address that is tried' -r
complete -c echo-udp -n "__fish_echo_udp_using_subcommand send" -l json -d 'Send this text as it is instead, valid JSON or not; `-` reads it from standard input' -r
complete -c echo-udp -n "__fish_echo_udp_using_subcommand send" -s 4 -d 'Use IPv4 only'
complete -c echo-udp -n "__fish_echo_udp_using_subcommand send" -s 6 -d 'Use IPv6 only'
complete -c echo-udp -n "__fish_echo_udp_using_subcommand send" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c echo-udp -n "__fish_echo_udp_using_subcommand help; and not __fish_seen_subcommand_from send help" -f -a "send" -d 'Send one packet and print it with its reply'
complete -c echo-udp -n "__fish_echo_udp_using_subcommand help; and not __fish_seen_subcommand_from send help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
