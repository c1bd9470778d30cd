package omaha

import (
	"errors"
	"strconv"
)

// ProductionURL is the update server that upstream's error codes call the
// production one: every other server sets FlagServer.
const ProductionURL = "https://public.update.flatcar-linux.net/v1/update/"

// A Code is the errorcode attribute of an event: a base value, and flags that
// are OR-ed to it (PROTOCOL.md, section 4).
type Code uint32

// Flags of a Code.
const (
	FlagDevMode   Code = 1 << 31 // the machine runs a developer's image
	FlagResumed   Code = 1 << 30 // the download went on where an earlier one stopped
	FlagTestImage Code = 1 << 29 // the image is a test image
	FlagServer    Code = 1 << 28 // the update server is not the production one

	flags = FlagDevMode | FlagResumed | FlagTestImage | FlagServer
)

// Base values of a Code. The gaps are codes that upstream no longer sends.
const (
	CodeOK                    Code = 0
	CodeError                 Code = 1
	CodeRequest               Code = 2
	CodeResponseHandler       Code = 3
	CodeFilesystemCopier      Code = 4
	CodePostinstall           Code = 5
	CodeInstallDeviceOpen     Code = 7
	CodeKernelDeviceOpen      Code = 8
	CodeDownloadTransfer      Code = 9
	CodePayloadHashMismatch   Code = 10
	CodePayloadSizeMismatch   Code = 11
	CodePayloadVerification   Code = 12
	CodeNewPartitionInfo      Code = 13
	CodeDownloadWrite         Code = 14
	CodeNewRootfsVerification Code = 15
	CodeNewKernelVerification Code = 16
	CodeSignedPayloadExpected Code = 17
	CodePubKeyVerification    Code = 18
	CodeBootedFromFirmwareB   Code = 19
	CodeStateInitialization   Code = 20 // also: the source image is not the one the delta expects
	CodeBadMagic              Code = 21
	CodeSignatureMissing      Code = 22
	CodeManifestParse         Code = 23
	CodeOpHashVerification    Code = 27
	CodeOpExecution           Code = 28
	CodeOpHashMismatch        Code = 29
	CodeEmptyResponse         Code = 30
	CodeXMLParse              Code = 31
	CodeResponseInvalid       Code = 34
	CodeIgnoredPerPolicy      Code = 35
	CodeDeferredPerPolicy     Code = 36
	CodeHTTPError             Code = 37
	CodeOpHashMissing         Code = 38
	CodeDeferredForBackoff    Code = 40
	CodePowerwash             Code = 41
	CodePCRPolicyVerification Code = 42
	CodePCRPolicyHTTP         Code = 43
	CodeRollback              Code = 44
	CodeHTTPBase              Code = 2000 // plus the HTTP status of the update server; alone: no answer
)

var codeNames = map[Code]string{
	CodeOK:                    "OK",
	CodeError:                 "Error",
	CodeRequest:               "Request",
	CodeResponseHandler:       "ResponseHandler",
	CodeFilesystemCopier:      "FilesystemCopier",
	CodePostinstall:           "Postinstall",
	CodeInstallDeviceOpen:     "InstallDeviceOpen",
	CodeKernelDeviceOpen:      "KernelDeviceOpen",
	CodeDownloadTransfer:      "DownloadTransfer",
	CodePayloadHashMismatch:   "PayloadHashMismatch",
	CodePayloadSizeMismatch:   "PayloadSizeMismatch",
	CodePayloadVerification:   "PayloadVerification",
	CodeNewPartitionInfo:      "NewPartitionInfo",
	CodeDownloadWrite:         "DownloadWrite",
	CodeNewRootfsVerification: "NewRootfsVerification",
	CodeNewKernelVerification: "NewKernelVerification",
	CodeSignedPayloadExpected: "SignedPayloadExpected",
	CodePubKeyVerification:    "PubKeyVerification",
	CodeBootedFromFirmwareB:   "BootedFromFirmwareB",
	CodeStateInitialization:   "StateInitialization",
	CodeBadMagic:              "BadMagic",
	CodeSignatureMissing:      "SignatureMissing",
	CodeManifestParse:         "ManifestParse",
	CodeOpHashVerification:    "OpHashVerification",
	CodeOpExecution:           "OpExecution",
	CodeOpHashMismatch:        "OpHashMismatch",
	CodeEmptyResponse:         "EmptyResponse",
	CodeXMLParse:              "XMLParse",
	CodeResponseInvalid:       "ResponseInvalid",
	CodeIgnoredPerPolicy:      "IgnoredPerPolicy",
	CodeDeferredPerPolicy:     "DeferredPerPolicy",
	CodeHTTPError:             "HTTPError",
	CodeOpHashMissing:         "OpHashMissing",
	CodeDeferredForBackoff:    "DeferredForBackoff",
	CodePowerwash:             "Powerwash",
	CodePCRPolicyVerification: "PCRPolicyVerification",
	CodePCRPolicyHTTP:         "PCRPolicyHTTP",
	CodeRollback:              "Rollback",
}

// Base returns the code without its flags.
func (c Code) Base() Code { return c &^ flags }

// Flagged returns the code with the flags that a report to server carries.
// Upstream sets none on CodeRollback and on success, which it reports before
// it knows of a download.
func (c Code) Flagged(server string, resumed bool) Code {
	if c.Base() == CodeOK || c.Base() == CodeRollback {
		return c
	}
	if server != ProductionURL {
		c |= FlagServer
	}
	if resumed {
		c |= FlagResumed
	}
	return c
}

// Wire returns the code as it stands in an event: upstream prints the 32 bits
// as a signed number.
func (c Code) Wire() int { return int(int32(c)) }

// FromWire returns the code that stands in an event's errorcode attribute.
func FromWire(n int) Code { return Code(uint32(int32(n))) }

// String names the code and its flags, as in "OpExecution|resumed|server".
func (c Code) String() string {
	base := c.Base()
	name, known := codeNames[base]
	if !known && base >= CodeHTTPBase && base < CodeHTTPBase+1000 {
		name = "HTTP" + strconv.Itoa(int(base-CodeHTTPBase))
	} else if !known {
		name = "Code" + strconv.Itoa(int(base))
	}
	for _, f := range []struct {
		flag Code
		name string
	}{{FlagDevMode, "dev"}, {FlagResumed, "resumed"}, {FlagTestImage, "test"}, {FlagServer, "server"}} {
		if c&f.flag != 0 {
			name += "|" + f.name
		}
	}
	return name
}

// CodeOf returns the code of an error that Client.Check returned, and whether
// it is a fault of this machine or its network that the server should hear of.
// A server that turns the machine away in so many words (an app status other
// than "ok", as Nebraska throttles) already knows: reporting that back as a
// client's error, as upstream does, makes the fleet look broken.
func CodeOf(err error) (code Code, report bool) {
	var status *StatusError
	var refused *Refused
	switch {
	case err == nil:
		return CodeOK, false
	case errors.As(err, &refused):
		return CodeResponseInvalid, !refused.Deliberate()
	case errors.As(err, &status):
		return status.Code(), true
	case errors.Is(err, ErrEmpty):
		return CodeEmptyResponse, true
	case errors.Is(err, ErrXML):
		return CodeXMLParse, true
	case errors.Is(err, ErrInvalid):
		return CodeResponseInvalid, true
	case errors.Is(err, ErrNetwork):
		return CodeHTTPBase, true
	}
	return CodeRequest, true
}
