//go:build race

package partition_test

// survivals is how many ways a power cut is survived besides the two extremes:
// the first of those that are walked without the race detector, which makes
// them five times as slow and has nothing to find in one goroutine.
const survivals = 8
