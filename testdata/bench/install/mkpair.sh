#!/bin/bash
# mkpair.sh OUTDIR [v1|v2]... builds the file system images that the benchmark
# installs, as OUTDIR/NAME.erofs-raw; v2 alone when no name is given.
#
# Both are a container host of Debian 12: v1 as the release's main archive has
# it, v2 with its updates and security fixes and two packages more. Files,
# order and times are fixed, so that the same archive gives the same bytes; the
# archive moves on, so an image is named by its SHA-256 in what is measured.
#
# As root: apt-get install -y mmdebstrap erofs-utils
# The mirrors are those of this machine's own apt sources.
set -euo pipefail

out=${1:?usage: mkpair.sh OUTDIR [v1|v2]...}
shift
[ $# -gt 0 ] || set -- v2

export SOURCE_DATE_EPOCH=1780000000 LC_ALL=C TZ=UTC
uuid=11111111-2222-3333-4444-555555555555
host=systemd,systemd-sysv,dbus,udev,docker.io,containerd,runc,linux-image-cloud-amd64,vim,python3
host+=,openssh-server,openssl,curl,git,sudo,bind9-host,ca-certificates,iproute2,nftables,iptables
host+=,perl,less,gnupg,xz-utils,zstd,e2fsprogs,btrfs-progs,lvm2,cryptsetup-bin,jq,rsync,tcpdump
host+=,strace,socat,ethtool,chrony,libxml2-utils
added=nfs-common,tmux

# What would differ from build to build, and what an image does not need.
volatile='cd "$1" && rm -rf var/cache/* var/lib/apt/lists/* var/log/* boot/initrd* var/lib/dpkg/*-old'
volatile+=' etc/ssh/ssh_host_* etc/machine-id var/lib/dbus/machine-id tmp/* run/*'

fail() {
	echo "mkpair: $*" >&2
	exit 1
}

# mirror PATTERN prints the first of this machine's apt mirrors that matches.
mirror() {
	local uris
	uris=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
		grep -oE 'https?://[^ ]+' | sed 's,/$,,' | sort -u)
	grep -E -m1 "$1" <<<"$uris" || fail "no mirror matches $1 in apt's sources"
}

# image NAME PACKAGES SOURCE... builds NAME.erofs-raw, unless it is there. The
# name appears only once the image is whole.
image() {
	local name=$1 packages=$2 tree=$out/tree-$1
	shift 2
	[ ! -s "$out/$name.erofs-raw" ] || return 0
	rm -rf --one-file-system "$tree"
	mmdebstrap --mode=root --variant=minbase --include="$packages" --format=directory \
		--aptopt='APT::Install-Recommends "false"' --customize-hook="$volatile" \
		bookworm "$tree" "$@"
	find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -print0 |
		xargs -0r touch -h -d "@$SOURCE_DATE_EPOCH"
	mkfs.erofs --quiet -T"$SOURCE_DATE_EPOCH" -U "$uuid" "$out/$name.erofs-raw.part" "$tree" >/dev/null
	mv "$out/$name.erofs-raw.part" "$out/$name.erofs-raw"
	rm -rf --one-file-system "$tree"
}

for program in mmdebstrap mkfs.erofs; do
	command -v "$program" >/dev/null || fail "$program is not installed"
done
[ "$(id -u)" -eq 0 ] || fail "must run as root: the images hold root's files"
mkdir -p "$out"
debian=$(mirror '/debian$')
security=$(mirror 'debian-security$')
for name; do
	case $name in
	v1) image v1 "$host" "deb $debian bookworm main" ;;
	v2) image v2 "$host,$added" "deb $debian bookworm main" \
		"deb $debian bookworm-updates main" "deb $security bookworm-security main" ;;
	*) fail "no image is called $name" ;;
	esac
done
