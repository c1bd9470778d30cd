//go:build !race

package partition_test

// survivals is how many ways a power cut is survived besides the two extremes.
const survivals = 24
