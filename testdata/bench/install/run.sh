#!/bin/bash
# run.sh measures how fast, and with how much processor and memory, a whole
# operating system image is installed: Drydock beside dd, curl, RAUC and
# SWUpdate, interleaved, on the same image and the same loop device. README.md
# says what is measured and how; `run.sh --help` how it is called.
set -euo pipefail
export LC_ALL=C TZ=UTC
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
module=$(cd "$here/../../.." && pwd)

# Settings, each with an option of the same name.
work=/var/tmp/drydock-bench
rounds=5
methods="drydock dd curl rauc swupdate"
sizes="1 2 4"
drydock=
report=

# One run that takes longer than this hangs.
run_limit_s=300
# Up to this load the machine counts as quiet.
quiet_load=0.30

# The loop devices attached and not yet detached.
loops=()

usage() {
	cat <<TEXT
usage: run.sh [option]...
  --rounds N       rounds, of which the median counts ($rounds)
  --methods LIST   what to measure ("$methods")
  --sizes LIST     multiples of the image for the memory of drydock ("$sizes"); "" for none
  --drydock FILE   the program to measure (built from this checkout)
  --work DIR       images, artifacts and slots; not a tmpfs ($work)
  --report FILE    write the report there too
TEXT
}

fail() {
	echo "run.sh: $*" >&2
	exit 1
}

note() {
	echo "$(date +%T) $*" >&2
}

. "$here/process.sh"
. "$here/slot.sh"
. "$here/methods.sh"
. "$here/machine.sh"

parse() {
	while [ $# -gt 0 ]; do
		case $1 in
		-h | --help)
			usage
			exit 0
			;;
		--rounds | --methods | --sizes | --drydock | --work | --report)
			[ $# -ge 2 ] || fail "$1 needs a value"
			printf -v "${1#--}" %s "$2"
			shift 2
			;;
		*) fail "unknown option $1; see run.sh --help" ;;
		esac
	done
	[[ $rounds =~ ^[1-9][0-9]?$ ]] || fail "--rounds takes 1 to 99"
	local word
	for word in $methods; do
		declare -F "run_$word" >/dev/null || fail "no method is called $word"
	done
	for word in $sizes; do
		[[ $word =~ ^[1-8]$ ]] || fail "--sizes takes multiples from 1 to 8"
	done
	measures drydock || sizes=
}

# measures METHOD is true if METHOD was asked for.
measures() {
	[[ " $methods " == *" $1 "* ]]
}

# largest prints the largest multiple of the image that is installed.
largest() {
	tr ' ' '\n' <<<"1 $sizes" | sort -n | tail -1
}

# stale TARGET SOURCE is true if TARGET must be made again.
stale() {
	[ ! -s "$1" ] || [ "$2" -nt "$1" ]
}

finish() {
	local status=$? device
	trap - EXIT INT TERM
	set +e
	stop_all
	# A bundle that RAUC was installing from, if it was interrupted.
	findmnt --raw --noheadings --output TARGET | grep "^$state/rauc-mount/" | xargs -r umount
	for device in "${loops[@]}"; do losetup -d "$device"; done
	rm -f "$state"/slot "$state"/slot-large
	exit "$status"
}

# room checks that the work directory is on a disk with space for everything.
# In multiples of the image: the tree while it is built, the image, five
# artifacts, two slots; and for the memory runs the longest image with its
# payload and slot, and the shorter ones with theirs.
room() {
	local image=900000000 multiples=7 have size
	[ "$(file_system)" != tmpfs ] || fail "$work is on a tmpfs; the slot must be on a disk"
	for size in $sizes; do multiples=$((multiples + 2 * size)); done
	multiples=$((multiples + $(largest)))
	have=$(($(df --output=avail -B1 "$work" | tail -1) + $(du -s -B1 "$work" | cut -f1)))
	[ "$have" -ge $((image * multiples)) ] ||
		fail "$work has room for $((have / 1000000)) MB, $((image * multiples / 1000000)) MB are needed"
}

# build makes the program to measure, as a release would: no debug information.
# It leaves in $revision what was built.
build() {
	if [ -n "$drydock" ]; then
		revision="of $(sha256sum <"$drydock" | cut -c1-12)"
		return
	fi
	drydock=$state/drydock
	revision=$(git -C "$module" describe --always --dirty 2>/dev/null || echo "without a revision")
	(cd "$module" && nice go build -trimpath -buildvcs=false -ldflags='-s -w' -o "$drydock" ./cmd/drydock)
}

# timed COMMAND... runs COMMAND and adds its processor time, user and system,
# and its peak memory, children included, to the usage of this run.
timed() {
	timeout "$run_limit_s" /usr/bin/time --quiet --append --output="$usage" --format='%U %S %M' -- "$@"
}

# measure PART SCALE METHOD ROUND SLOT makes one run and records it.
measure() {
	local part=$1 scale=$2 method=$3 round=$4
	slot=$5 image=$(image_of "$scale") usage=$state/usage
	local begin end machine
	slot_zero "$slot" "$image"
	: >"$usage"
	before "$method"
	sync --file-system "$work"
	machine=$(busy_ticks)
	begin=$EPOCHREALTIME
	"run_$method" "$scale" >"$state/$method.log" 2>&1 ||
		fail "$method failed in round $round: $(tail -3 "$state/$method.log")"
	# A method that leaves its last writes to the kernel pays for them here.
	timed sync "$slot"
	end=$EPOCHREALTIME
	machine=$(($(busy_ticks) - machine))
	after "$method"
	slot_holds "$slot" "$image" || fail "$method did not install the image in round $round"
	awk -v begin="$begin" -v end="$end" -v machine="$machine" -v hz="$(getconf CLK_TCK)" \
		-v key="$part $scale $method $round" '
		{ cpu += $1 + $2; if ($3 > peak) peak = $3 }
		END { printf "%s %.4f %.2f %d %.2f\n", key, end - begin, cpu, peak, machine / hz }
		' "$usage" | tee -a "$results" >&2
}

# speed runs every method once a round; each round begins with another one, so
# that none always follows the same.
speed() {
	local round i list
	read -ra list <<<"$methods"
	slot_attach "$state/slot" "$(stat -c %s "$(image_of 1)")"
	for ((round = 1; round <= rounds; round++)); do
		for ((i = 0; i < ${#list[@]}; i++)); do
			measure speed 1 "${list[(i + round - 1) % ${#list[@]}]}" "$round" "$device"
		done
	done
}

# memory runs drydock on the image's multiples.
memory() {
	local round scale
	[ -n "$sizes" ] || return 0
	slot_attach "$state/slot-large" "$(stat -c %s "$(image_of "$(largest)")")"
	for ((round = 1; round <= rounds; round++)); do
		for scale in $sizes; do measure memory "$scale" drydock "$round" "$device"; done
	done
}

print_report() {
	machine_lines
	awk -v bytes="$(stat -c %s "$(image_of 1)")" -v rounds="$rounds" -f "$here/report.awk" "$results"
}

main() {
	parse "$@"
	state=$work/run
	[ "$(id -u)" -eq 0 ] || fail "must run as root: it attaches loop devices"
	mkdir -p "$work/pair" "$work/made" "$state"
	exec 9>"$work/lock"
	flock -n 9 || fail "another run uses $work"
	trap finish EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	programs awk cmp curl dd findmnt flock losetup openssl sync timeout /usr/bin/time
	room
	results=$state/results
	: >"$results"
	bash "$here/mkpair.sh" "$work/pair" v2
	prepare
	load_before=$(cut -d' ' -f1-3 /proc/loadavg)
	speed
	memory
	load_after=$(cut -d' ' -f1-3 /proc/loadavg)
	print_report | tee ${report:+"$report"}
}

main "$@"
exit
