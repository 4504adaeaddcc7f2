#!/bin/sh
# Sends each line of standard input as one message. Needs socat(1).
#
#   send-readings.sh [SOCKET [STREAM]] <readings
#
# STREAM is 32 hex digits. Started again with the same one and the same
# input, the program skips what is stored already.
socket=${1:-/run/iothubd/iothubd.sock}
stream=${2:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}

# One connection for each call. -t: how long to wait for the reply after
# the call was written; a disk may take its time.
call() { # METHOD PARAMETERS; sets $reply, to nothing when there is none
	reply=$(printf '{"method":"io.iothubd.%s","parameters":{%s}}\0' \
		"$1" "$2" | socat -t 600 - "UNIX-CONNECT:$socket" | tr -d '\0')
}

# A lost call or a lost reply makes no difference: the same message under
# the same position is stored once, so it is safe to repeat.
call_until_answered() {
	while :; do
		call "$@"
		case $reply in
		'' | *'"io.iothubd.OutboxFull"'* | *'"io.iothubd.DiskError"'* | \
			*'"io.iothubd.LimitExceeded"'* | *'"io.iothubd.ShuttingDown"'*)
			echo "not now, trying again: ${reply:-no answer}" >&2
			sleep 1
			;;
		*'"error":'*)
			echo "message $position: $reply" >&2
			exit 65
			;;
		*) return ;;
		esac
	done
}

position=0
call_until_answered Resume "\"stream\":\"$stream\""
next=$(echo "$reply" | sed 's/.*"next": *\([0-9]*\).*/\1/')

# Base64 takes any bytes and needs no quoting.
while IFS= read -r line; do
	if [ "$position" -ge "$next" ]; then
		body=$(printf %s "$line" | base64 -w 0)
		call_until_answered Send "\"stream\":\"$stream\",\"position\":$position,
			\"messages\":[{\"bodyBase64\":\"$body\"}]"
	fi
	position=$((position + 1))
done
echo "$position readings are safe"
