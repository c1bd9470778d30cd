# report.awk prints the runs as Markdown tables. A line of input is one run:
#   PART SCALE METHOD ROUND WALL_S CPU_S PEAK_KIB MACHINE_CPU_S
# Set with -v: bytes, the size of the image; rounds.

{
	key = $1 SUBSEP $2 SUBSEP $3
	wall[key, $4] = $5; cpu[key, $4] = $6; peak[key, $4] = $7 / 1024; machine[key, $4] = $8
	if (!(key in known)) { known[key]; order[++keys] = key }
}

END {
	print_speed()
	print_memory()
	print_aims()
}

# median sorts the rounds' values of a measure and returns the middle one; low
# and high are left to be read.
function median(values, key,    list, n, i, j, v) {
	n = 0
	for (i = 1; i <= rounds; i++) {
		v = values[key, i]
		for (j = n++; j > 0 && list[j] > v; j--) list[j + 1] = list[j]
		list[j + 1] = v
	}
	low = list[1]; high = list[n]
	return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
}

# ratio returns the median over the rounds of a method's wall time to a peer's
# of the same round, or 0 if the peer was not measured.
function ratio(key, peer,    i, quotient) {
	peer = "speed" SUBSEP 1 SUBSEP peer
	if (!(peer in known)) return 0
	for (i = 1; i <= rounds; i++) quotient[key, i] = wall[key, i] / wall[peer, i]
	return median(quotient, key)
}

function show(value) { return value ? sprintf("%.2f", value) : "-" }

function print_speed(    k, key, part, w) {
	title["drydock"] = "**drydock: HTTP, verified, fsynced, read back**"
	title["dd"] = "dd oflag=direct conv=fsync (the limit)"
	title["curl"] = "curl \\| zstd -d \\| dd conv=fsync (verifies nothing)"
	title["rauc"] = "rauc install, plain bundle, local file"
	title["swupdate"] = "swupdate, signed raw zstd image, local file"
	print "| method | wall s, median (min-max) | MB/s | to dd | to curl | to RAUC | CPU-s | CPU-s a GB | peak RSS MiB | machine's CPU-s |"
	print "|---|---|---|---|---|---|---|---|---|---|"
	for (k = 1; k <= keys; k++) {
		key = order[k]
		split(key, part, SUBSEP)
		if (part[1] != "speed") continue
		w = median(wall, key)
		printf "| %s | %.2f (%.2f-%.2f) | %.0f | %s | %s | %s ", title[part[3]], w, low, high,
			bytes / 1e6 / w, show(ratio(key, "dd")), show(ratio(key, "curl")), show(ratio(key, "rauc"))
		printf "| %.2f | %.2f | %.1f | %.2f |\n", median(cpu, key), median(cpu, key) * 1e9 / bytes,
			median(peak, key), median(machine, key)
	}
	print ""
}

function print_memory(    k, key, part, m) {
	for (k = 1; k <= keys; k++) {
		key = order[k]
		split(key, part, SUBSEP)
		if (part[1] != "memory") continue
		if (!smallest) {
			print "| drydock, image | peak RSS MiB, median (min-max) | wall s | CPU-s a GB |"
			print "|---|---|---|---|"
		}
		m = median(peak, key)
		printf "| %dx, %.0f MB | %.1f (%.1f-%.1f) ", part[2], part[2] * bytes / 1e6, m, low, high
		printf "| %.2f | %.2f |\n", median(wall, key), median(cpu, key) * 1e9 / bytes / part[2]
		if (!smallest || m < smallest) smallest = m
		if (m > largest) largest = m
		lengths++
	}
	if (smallest) print ""
}

# aim prints one line of the aims, unless its value was not measured.
function aim(text, value, limit, above,    met) {
	if (!value) return
	met = above ? value >= limit : value <= limit
	printf "| %s | %s %.2f | %.2f | %s |\n", text, above ? "at least" : "at most", limit, value, met ? "met" : "**missed**"
}

function print_aims(    key, most, slow) {
	key = "speed" SUBSEP 1 SUBSEP "drydock"
	if (!(key in known)) return
	print "| aim | | measured | |"
	print "|---|---|---|---|"
	aim("wall to RAUC", ratio(key, "rauc"), 0.6)
	aim("wall to curl", ratio(key, "curl"), 0.9)
	slow = ratio(key, "dd")
	aim("speed to dd", slow ? 1 / slow : 0, 0.35, 1)
	aim("CPU-s a GB", median(cpu, key) * 1e9 / bytes, 3)
	most = median(peak, key)
	aim("peak RSS, MiB", largest > most ? largest : most, 32)
	aim("peak RSS, largest to smallest over the image's sizes", lengths > 1 ? largest / smallest : 0, 1.1)
}
