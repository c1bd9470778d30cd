# process.sh: programs that a benchmark starts, and ends again. Sourced by
# run.sh and idle.sh, which have fail, and a directory $state for what the
# programs leave behind.

# The processes that were started and not yet stopped.
pids=()

# programs NAME... checks that programs are installed.
programs() {
	local program
	for program; do
		command -v "$program" >/dev/null || fail "$program is not installed; README.md has the packages"
	done
}

# await NAME COMMAND... waits about half a minute until COMMAND succeeds, which must
# itself be quick to fail. NAME has its log in $state/NAME.log.
await() {
	local name=$1 end=$((SECONDS + 30))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || fail "$name does not come up: $(tail -n 3 "$state/$name.log")"
		sleep 0.1
	done
}

# stop PID ends a process that was started here, and waits for it.
stop() {
	local pid kept=()
	kill "$1" 2>/dev/null || true
	wait "$1" 2>/dev/null || true
	for pid in "${pids[@]}"; do [ "$pid" = "$1" ] || kept+=("$pid"); done
	pids=(${kept[@]+"${kept[@]}"})
}

# stop_all ends the last first: an etcd waits for those who watch it.
stop_all() {
	while [ ${#pids[@]} -gt 0 ]; do stop "${pids[-1]}"; done
}

# private_bus starts a D-Bus daemon that takes the system bus's place for the
# programs started after it.
private_bus() {
	programs dbus-daemon dbus-send
	rm -f "$state/bus"
	cat >"$state/bus.conf" <<-CONF
		<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
			"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
		<busconfig>
			<type>system</type>
			<listen>unix:path=$state/bus</listen>
			<auth>EXTERNAL</auth>
			<policy context="default">
				<allow user="root"/> <allow own="*"/>
				<allow send_destination="*"/> <allow receive_sender="*"/>
			</policy>
		</busconfig>
	CONF
	export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$state/bus
	dbus-daemon --config-file="$state/bus.conf" --nofork --nopidfile >"$state/dbus-daemon.log" 2>&1 &
	pids+=($!)
	await dbus-daemon owned org.freedesktop.DBus
}

# owned NAME is true once a program has that name on the private bus.
owned() {
	dbus-send --system --print-reply --reply-timeout=2000 --dest=org.freedesktop.DBus / \
		org.freedesktop.DBus.GetNameOwner "string:$1"
}
