package payload

import "errors"

// What can be wrong with a payload, or with writing it. A caller branches on
// these with errors.Is; the number is the code that the Omaha client reports
// for it (update_engine's action_processor.h), and the trace named is where
// the upstream daemon was seen to report it.
var (
	ErrNoKey                = errors.New("no trusted key")                             // never applied: nothing can be verified (upstream accepts; trace no_pubkey_wrong_sig)
	ErrDownload             = errors.New("payload cannot be read")                     // 9
	ErrPayloadHash          = errors.New("payload has the wrong hash")                 // 10, trace wrong_sha, after the full download
	ErrPayloadSize          = errors.New("payload has the wrong size")                 // 11, trace wrong_size
	ErrWrite                = errors.New("target cannot be written")                   // 14
	ErrImageHash            = errors.New("written image has the wrong hash")           // 15, every partition but the kernel
	ErrKernelHash           = errors.New("written kernel has the wrong hash")          // 16; is an ErrImageHash too
	ErrUnsigned             = errors.New("payload is not signed")                      // 17, trace unsigned
	ErrSignature            = errors.New("no trusted key signed the payload")          // 18, trace wrong_key
	ErrSourceMismatch       = errors.New("source is not the image the delta wants")    // 20, trace delta
	ErrBadMagic             = errors.New("not an update payload")                      // 21, trace bad_magic
	ErrManifest             = errors.New("payload manifest is not valid")              // 23
	ErrVersion              = errors.New("payload format version is not supported")    // 23 to the server: upstream does not look
	ErrTooLarge             = errors.New("payload exceeds a limit")                    // 23
	ErrOperation            = errors.New("payload operation cannot be done")           // 28
	ErrOperationHash        = errors.New("payload operation has the wrong hash")       // 29, traces corrupt_op and bad_manifest
	ErrOperationHashMissing = errors.New("payload operation has no hash")              // 38
	ErrTargetTooSmall       = errors.New("target is smaller than the image")           // 28
	ErrNoTarget             = errors.New("payload has a partition without a target")   // 28
	ErrExpired              = errors.New("payload has expired")                        // 18 to the server: it is no longer vouched for
	ErrResume               = errors.New("checkpoint does not belong to this payload") // none: start again without it
)
