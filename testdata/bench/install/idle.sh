#!/bin/bash
# idle.sh [--seconds N] [--drydockd FILE] [--machine-id ID] [--scheduler NAME=FILE]...
# prints the resident memory of drydockd after it has done nothing for a minute: on
# the bus, with a policy file, a disk of two slots, a server that it does not ask
# yet, and a cluster of one machine in a real etcd, of which it is the coordinator.
# First no scheduler is configured; then, one after the other, those whose tables of
# the policy are in the files, and which answer. The service of RAUC, where it is
# installed, stands beside the first.
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
module=$(cd "$here/../../.." && pwd)
seconds=60
drydockd=
machine_id=
schedulers=()

fail() {
	echo "idle.sh: $*" >&2
	exit 1
}

. "$here/process.sh"

parse() {
	while [ $# -gt 0 ]; do
		case $1 in
		--seconds | --drydockd | --machine-id)
			[ $# -ge 2 ] || fail "$1 needs a value"
			local name=${1#--}
			printf -v "${name//-/_}" %s "$2"
			shift 2
			;;
		--scheduler)
			[ -r "${2#*=}" ] || fail "$1 needs a value NAME=FILE"
			schedulers+=("$2")
			shift 2
			;;
		*) fail "usage: idle.sh [--seconds N] [--drydockd FILE] [--machine-id ID] [--scheduler NAME=FILE]..." ;;
		esac
	done
}

finish() {
	local status=$?
	trap - EXIT INT TERM
	stop_all
	rm -rf "$state"
	exit "$status"
}

# build makes drydockd as a release would, without debug information, and etcd.
build() {
	(cd "$module" && nice go build -o "$state/etcd" ./rebootlock/etcdtest/etcd)
	[ -z "$drydockd" ] || return 0
	drydockd=$state/drydockd
	(cd "$module" && nice go build -trimpath -ldflags='-s -w' -o "$drydockd" ./cmd/drydockd)
}

# free_port prints a loopback port that nobody has.
free_port() {
	local port
	while port=$((20000 + RANDOM % 20000)); do
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
	done
	echo "$port"
}

start_etcd() {
	local peer
	etcd_url=http://127.0.0.1:$(free_port) peer=http://127.0.0.1:$(free_port)
	"$state/etcd" --name one --data-dir "$state/etcd-data" --log-level error --unsafe-no-fsync \
		--listen-client-urls "$etcd_url" --advertise-client-urls "$etcd_url" \
		--listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
		--initial-cluster "one=$peer" >"$state/etcd.log" 2>&1 &
	pids+=("$!")
	await etcd healthy
}

healthy() { exec 3<>"/dev/tcp/127.0.0.1/${etcd_url##*:}"; }

# joined says that the machine is in its cluster.
joined() { [ -s "$state/var/cluster.json" ]; }

# a_machine CLUSTER [FILE] makes what the daemon looks at: a disk image with
# Flatcar's two slots, the running system's few files, a key and a policy, with the
# tables in FILE.
a_machine() {
	rm -rf "$state/disk" "$state/root" "$state/var"
	local usr=5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6
	truncate -s 64M "$state/disk"
	printf 'label: gpt\nsize=16MiB, type=%s, name=USR-A\nsize=16MiB, type=%s, name=USR-B\n' "$usr" "$usr" |
		sfdisk --quiet "$state/disk"
	mkdir -p "$state"/{root/etc,root/proc/sys/kernel/random,var,boot}
	printf 'ID=bench\nVERSION_ID=1.0.0\n' >"$state/root/etc/os-release"
	echo "${machine_id:-$(tr -d - </proc/sys/kernel/random/uuid)}" >"$state/root/etc/machine-id"
	cp /proc/sys/kernel/random/boot_id "$state/root/proc/sys/kernel/random/"
	openssl genrsa 2048 2>/dev/null | openssl pkey -pubout -out "$state/key.pem"
	cat >"$state/drydock.toml" <<-POLICY
		state = "$state/var"
		[server]
		url = "http://127.0.0.1:9/v1/update/"
		[trust]
		keys = ["$state/key.pem"]
		[slots]
		disk = "$state/disk"
		booted = "A"
		boot_directory = "$state/boot"
		[cluster]
		id = "$1"
		endpoints = ["$etcd_url"]
		[group]
		max = "1"
	POLICY
	[ $# -lt 2 ] || cat "$2" >>"$state/drydock.toml"
}

# start_drydockd CLUSTER [FILE] starts it on a new machine, in a cluster of its own.
start_drydockd() {
	a_machine "$@"
	"$drydockd" --config "$state/drydock.toml" --root "$state/root" \
		--bus "unix:path=$state/bus" >"$state/drydockd.log" 2>&1 &
	drydockd_pid=$!
	pids+=("$drydockd_pid")
	await drydockd owned io.drydock.Drydock1
	await drydockd joined
}

start_rauc() {
	printf '%s\n' '[system]' compatible=bench bootloader=noop "statusfile=$state/rauc.status" \
		'[slot.rootfs.0]' device=/dev/null type=raw bootname=A \
		'[slot.rootfs.1]' device=/dev/zero type=raw bootname=B >"$state/rauc.conf"
	rauc --conf="$state/rauc.conf" --override-boot-slot=A service >"$state/rauc.log" 2>&1 &
	rauc_pid=$!
	pids+=("$rauc_pid")
	await rauc owned de.pengutronix.rauc
}

# resident NAME PID prints a row: all that is resident, and how much of it is
# the process's own, in MiB.
resident() {
	awk -v name="$1" '
		$1 == "VmRSS:" { all = $2 }
		$1 == "RssAnon:" { own = $2 }
		END { if (!all) exit 1; printf "| %s | %.1f | %.1f |\n", name, all / 1024, own / 1024 }
	' "/proc/$2/status" || fail "$1 has ended"
}

main() {
	parse "$@"
	programs go openssl sfdisk
	state=$(mktemp -d)
	trap finish EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	build
	private_bus
	start_etcd
	start_drydockd bench
	if command -v rauc >/dev/null; then start_rauc; fi
	sleep "$seconds"
	echo "| idle for $seconds s | RSS MiB | of it anonymous |"
	echo "|---|---|---|"
	resident "drydockd in a cluster, $(stat -c %s "$drydockd" | awk '{ printf "%.1f MB", $1 / 1e6 }')" "$drydockd_pid"
	if [ -n "${rauc_pid:-}" ]; then resident "$(rauc --version) service" "$rauc_pid"; fi
	local scheduler
	for scheduler in "${schedulers[@]}"; do
		stop "$drydockd_pid"
		start_drydockd "bench-${scheduler%%=*}" "${scheduler#*=}"
		sleep "$seconds"
		resident "the same with a link to ${scheduler%%=*}" "$drydockd_pid"
	done
}

main "$@"
exit
