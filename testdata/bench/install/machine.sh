# machine.sh: what the machine is, and how busy. Sourced by run.sh.

# busy_ticks prints the clock ticks that all processors have not been idle for,
# whoever had them: the kernel's own threads, the web server, other people, and
# a hypervisor that gave them away.
busy_ticks() {
	awk '$1 == "cpu" { print $2 + $3 + $4 + $7 + $8 + $9; exit }' /proc/stat
}

# process_ticks PID prints the clock ticks that a process has run, with the
# children it waited for.
process_ticks() {
	sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 + $14 + $15 }'
}

# installed PACKAGE prints a Debian package's name and version.
installed() {
	dpkg-query -W -f='${Package} ${Version}\n' "$1" 2>/dev/null || echo "$1 of unknown version"
}

# versions prints what was measured.
versions() {
	local method
	for method in $methods; do
		case $method in
		drydock) echo "drydock $revision with $(go version "$drydock" | sed 's/.*: //')" ;;
		dd) installed coreutils ;;
		curl) echo "$(installed curl) and $(installed zstd)" ;;
		*) installed "$method" ;;
		esac
	done
	echo "web server $(nginx -v 2>&1 | sed 's,.*/,nginx ,')"
}

# file_system prints the kind of file system that the work directory is on.
file_system() {
	df --output=fstype "$work" | tail -1
}

# listed joins lines with commas.
listed() {
	awk '{ printf "%s%s", separator, $0; separator = ", " }'
}

# megabytes FILE prints its size.
megabytes() {
	awk -v bytes="$(stat -c %s "$1")" 'BEGIN { printf "%.1f MB", bytes / 1e6 }'
}

# machine_lines prints the machine and the input, as a Markdown list.
machine_lines() {
	local image file busy=
	image=$(image_of 1)
	awk -v load="${load_before%% *}" -v quiet="$quiet_load" 'BEGIN { exit !(load > quiet) }' &&
		busy="; **not a quiet machine: do not quote**"
	cat <<LINES
- Machine: $(nproc) x $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), \
$(awk '$1 == "MemTotal:" { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), Linux $(uname -r), \
$(. /etc/os-release && echo "$PRETTY_NAME"); load $load_before before, $load_after after$busy.
- Slot: loop device over $(file_system), direct I/O $(losetup -nO DIO "${loops[0]}" | tr -d ' ').
- Image: $(stat -c %s "$image") bytes, SHA-256 \`$(sha256sum "$image" | cut -c1-16)\`…
- Artifacts: $(for file in "$work"/made/{drydock-1.payload,v2.zst,v2.raucb,v2.swu}; do
		[ ! -s "$file" ] || echo "${file##*/} $(megabytes "$file")"
	done | listed).
- Versions: $(versions | listed).

LINES
}
