package payload

// Limits on what comes from outside, FORMAT.md §5.
const (
	maxManifest   = 16 << 20  // held in memory; 1 TiB of 1 MiB chunks is half of it
	maxMessages   = 1 << 20   // a two-byte message costs 200 bytes once parsed
	maxSignatures = 64 << 10  // a hundred RSA-4096 signatures
	maxImage      = 1 << 40   // block arithmetic stays far from overflow
	maxBlob       = 256 << 20 // held in memory until its hash is known

	minBlockSize = 512
	maxBlockSize = 64 << 10
)
