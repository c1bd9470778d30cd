# methods.sh: what is measured. Sourced by run.sh.
#
# A method NAME has make_NAME, which makes its artifact once, and run_NAME
# SCALE, which installs it to $slot and is timed. before_NAME and after_NAME,
# where there are any, stand around the clock.

# before METHOD and after METHOD call the method's own, if it has one.
before() { if declare -F "before_$1" >/dev/null; then "before_$1"; fi; }
after() { if declare -F "after_$1" >/dev/null; then "after_$1"; fi; }

# prepare makes every artifact, reads all of them into the page cache, and
# starts the web server. No run pays for the disk under the artifacts.
prepare() {
	local method scale
	for scale in $sizes; do image_grow "$scale"; done
	keys
	for method in $methods; do "make_$method"; done
	find "$work/pair" "$work/made" -type f -exec cat {} + >/dev/null
	serve
}

# keys makes the one RSA key that signs for every method, with a certificate of
# its own for those that want one.
keys() {
	key=$work/made/key.pem cert=$work/made/cert.pem public=$work/made/public.pem
	[ ! -s "$public" ] || return 0
	openssl req -x509 -newkey rsa:2048 -nodes -keyout "$key" -out "$cert" -days 3650 \
		-subj /CN=bench -addext extendedKeyUsage=emailProtection -addext keyUsage=digitalSignature 2>/dev/null
	openssl pkey -in "$key" -pubout -out "$public"
}

# serve starts the web server, with sendfile, for the methods that download.
serve() {
	programs nginx
	port=18080
	while (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
	cat >"$state/nginx.conf" <<-CONF
		user root;
		worker_processes 1;
		daemon off;
		pid $state/nginx.pid;
		events { worker_connections 64; }
		http {
			access_log off;
			sendfile on;
			tcp_nopush on;
			default_type application/octet-stream;
			server { listen 127.0.0.1:$port; root $work/made; }
		}
	CONF
	nginx -p "$state" -e stderr -c "$state/nginx.conf" >"$state/nginx.log" 2>&1 &
	pids+=($!)
	await nginx curl -sfI --max-time 2 "http://127.0.0.1:$port/public.pem"
}

# drydock: a signed full payload over HTTP, verified, fsynced and read back.

make_drydock() {
	local scale
	build
	for scale in 1 $sizes; do drydock_payload "$scale"; done
	"$drydock" payload verify --key "$public" "$work/made/drydock-1.payload" >"$state/drydock-verify.log"
}

# drydock_payload SCALE makes a payload, unless this very program made it from
# this image before.
drydock_payload() {
	local image payload by
	image=$(image_of "$1") payload=$work/made/drydock-$1.payload by=$(sha256sum <"$drydock")
	if stale "$payload" "$image" || [ "$(cat "$payload.by" 2>/dev/null)" != "$by" ]; then
		note "making $payload"
		rm -f "$payload.by"
		nice "$drydock" payload create --key "$key" --version 2.0.0 --image "$image" \
			--out "$payload.part" >"$state/drydock-create.log"
		mv "$payload.part" "$payload"
		echo "$by" >"$payload.by"
	fi
}

run_drydock() {
	timed "$drydock" payload apply --key "$public" --target "$slot" "http://127.0.0.1:$port/drydock-$1.payload"
}

# dd: the limit. Nothing is downloaded, decompressed or verified.

make_dd() { :; }

run_dd() {
	timed dd if="$image" of="$slot" bs=1M oflag=direct conv=fsync
}

# curl: what a shell script would do. Nothing is verified.

make_curl() { compressed; }

# compressed makes the image in zstd, for curl and SWUpdate.
compressed() {
	programs zstd
	stale "$work/made/v2.zst" "$(image_of 1)" || return 0
	note "making v2.zst"
	nice zstd -q -f -12 -T0 "$(image_of 1)" -o "$work/made/v2.zst"
}

run_curl() {
	timed curl -sSf "http://127.0.0.1:$port/v2.zst" |
		timed zstd -dcq |
		timed dd of="$slot" bs=1M iflag=fullblock conv=fsync
}

# rauc: a plain bundle from a local file. The service does the work; it is new
# for each run and idle before the clock starts. The bundle is compressed with
# zstd, which installs in about half the time of RAUC's default, gzip.
rauc_squashfs="-comp zstd -Xcompression-level 12"

make_rauc() {
	local tree=$work/made/rauc
	programs rauc mksquashfs
	rauc_machine
	stale "$work/made/v2.raucb" "$(image_of 1)" || return 0
	note "making v2.raucb"
	rm -rf "$tree" "$work/made/v2.raucb"
	mkdir "$tree"
	ln "$(image_of 1)" "$tree/v2.img"
	printf '[update]\ncompatible=bench\nversion=2\n\n[image.rootfs]\nfilename=v2.img\n' >"$tree/manifest.raucm"
	nice rauc bundle --cert="$cert" --key="$key" --keyring="$cert" \
		--mksquashfs-args="$rauc_squashfs" "$tree" "$work/made/v2.raucb" >"$state/rauc-bundle.log" 2>&1
	rm -rf "$tree"
}

# rauc_machine has two slots and runs from the first. Only the second is a
# device, and it is the benchmark's.
rauc_machine() {
	private_bus
	mkdir -p "$state/rauc-mount"
	printf '%s\n' '[system]' compatible=bench bootloader=noop "mountprefix=$state/rauc-mount" \
		"statusfile=$state/rauc.status" '[keyring]' "path=$cert" \
		'[slot.rootfs.0]' device=/dev/null type=raw bootname=A \
		'[slot.rootfs.1]' device=SLOT type=raw bootname=B >"$state/rauc.conf"
}

before_rauc() {
	rm -f "$state/rauc.status"
	sed "s,SLOT,$slot," "$state/rauc.conf" >"$state/rauc-slot.conf"
	rauc --conf="$state/rauc-slot.conf" --override-boot-slot=A service >"$state/rauc-service.log" 2>&1 &
	rauc_pid=$!
	pids+=("$rauc_pid")
	await rauc-service owned de.pengutronix.rauc
	rauc_ticks=$(process_ticks "$rauc_pid")
}

run_rauc() {
	timed rauc install "$work/made/v2.raucb"
}

# after_rauc adds what the service took to the usage of the run.
after_rauc() {
	local ticks=$(($(process_ticks "$rauc_pid") - rauc_ticks))
	awk -v ticks="$ticks" -v hz="$(getconf CLK_TCK)" \
		'$1 == "VmHWM:" { printf "%.2f 0 %d\n", ticks / hz, $2 }' "/proc/$rauc_pid/status" >>"$usage"
	stop "$rauc_pid"
}

# swupdate: a signed archive with the image in zstd, from a local file, written
# as it is read.

make_swupdate() {
	programs swupdate cpio
	compressed
}

# before_swupdate packs the archive for this slot: its description, which is
# signed, names the device.
before_swupdate() {
	local parts="sw-description sw-description.sig v2.zst"
	cd "$work/made"
	cat >sw-description <<-DESCRIPTION
		software = {
			version = "2";
			hardware-compatibility = [ "1" ];
			images: ( {
				filename = "v2.zst";
				type = "raw";
				device = "$slot";
				compressed = "zstd";
				installed-directly = true;
				sha256 = "$(sha256sum v2.zst | cut -d' ' -f1)";
			} );
		}
	DESCRIPTION
	openssl cms -sign -in sw-description -out sw-description.sig -signer "$cert" -inkey "$key" \
		-outform DER -nosmimecap -binary
	tr ' ' '\n' <<<"$parts" | cpio --quiet -o -H crc >v2.swu
	cd "$OLDPWD"
}

run_swupdate() {
	TMPDIR=$state timed swupdate -k "$cert" -H bench:1 -i "$work/made/v2.swu"
}
