# slot.sh: the loop devices that are installed to, and the images that go there.
# Sourced by run.sh.

# slot_attach FILE BYTES makes a slot of BYTES and leaves its loop device in
# $device. Direct I/O keeps the file under the loop device out of the page cache.
slot_attach() {
	rm -f "$1"
	fallocate -l "$2" "$1"
	device=$(losetup --find --show --direct-io=on "$1") || fail "no loop device for $1"
	loops+=("$device")
}

# slot_zero DEVICE IMAGE overwrites as much of the device as the image takes. A
# slot that already holds the image flatters whoever looks before he writes.
slot_zero() {
	dd if=/dev/zero of="$1" bs=1M count="$(stat -c %s "$2")" iflag=count_bytes oflag=direct conv=fsync status=none
	! slot_holds "$1" "$2" || fail "$1 holds the image although it was just zeroed"
}

# slot_holds DEVICE IMAGE compares what the device holds, past its cache, with
# the image.
slot_holds() {
	dd if="$1" bs=1M count="$(stat -c %s "$2")" iflag=direct,count_bytes status=none | cmp -s - "$2"
}

# image_of SCALE prints the path of the image's multiple.
image_of() {
	if [ "$1" -eq 1 ]; then
		echo "$work/pair/v2.erofs-raw"
	else
		echo "$work/made/image-$1x"
	fi
}

# image_grow SCALE makes a multiple of the image. Copy k has each byte moved on
# by k, so that it compresses as well as the first and yet repeats none of it.
image_grow() {
	local image target k
	image=$(image_of 1)
	target=$(image_of "$1")
	[ "$1" -gt 1 ] && stale "$target" "$image" || return 0
	note "making $target"
	for ((k = 0; k < $1; k++)); do
		if [ $k -eq 0 ]; then cat "$image"; else
			tr '\000-\377' "$(printf '\\%03o-\\377\\000-\\%03o' "$k" $((k - 1)))" <"$image"
		fi
	done >"$target.part"
	mv "$target.part" "$target"
}
