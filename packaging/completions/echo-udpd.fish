complete -c echo-udpd -s c -l config -d 'Read the settings from this file' -r -F
complete -c echo-udpd -s l -l listen -d 'Listen on this address and port, such as [::]:9000 or raw:[::]:7, instead of those in the settings; repeatable' -r
complete -c echo-udpd -l check -d 'Only check the settings'
complete -c echo-udpd -l print-config -d 'Only print the settings in force'
complete -c echo-udpd -s h -l help -d 'Print help'
complete -c echo-udpd -s V -l version -d 'Print version'
