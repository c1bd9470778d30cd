package payload

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/drydock-os/drydock/updater/payload/internal/wire"
)

// ecdsaSize is the longest ASN.1 signature on P-256.
const ecdsaSize = 72

// verify checks that one of the keys made one of the signatures in message,
// for data whose SHA-256 is digest: FORMAT.md §4.
func (keys Keys) verify(message, digest []byte) error {
	var list wire.Signatures
	if err := proto.Unmarshal(message, &list); err != nil {
		return fmt.Errorf("%w: parse signatures: %v", ErrSignature, err)
	}
	if len(list.Signatures) == 0 {
		return fmt.Errorf("%w: the list of signatures is empty", ErrUnsigned)
	}
	for _, s := range list.Signatures {
		for _, key := range keys {
			if verifyOne(key, s, digest) {
				return nil
			}
		}
	}
	return fmt.Errorf("%w: %d signatures, %d trusted keys", ErrSignature, len(list.Signatures), len(keys))
}

func verifyOne(key crypto.PublicKey, s *wire.Signatures_Signature, digest []byte) bool {
	data := s.GetData()
	if s.UnpaddedSignatureSize != nil {
		if int64(s.GetUnpaddedSignatureSize()) > int64(len(data)) {
			return false
		}
		data = data[:s.GetUnpaddedSignatureSize()]
	}
	if checkKey(key) != nil { // a caller may have put any key into Keys
		return false
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest, data) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, digest, data)
	}
	return false
}

// sign returns the Signatures message for digest. Its size depends on the
// signers only, so that it can be announced before there is anything to sign.
func sign(signers []crypto.Signer, digest []byte) ([]byte, error) {
	var list wire.Signatures
	for i, signer := range signers {
		s, err := signOne(signer, digest)
		if err != nil {
			return nil, fmt.Errorf("sign payload: %w", err)
		}
		s.Version = proto.Uint32(uint32(3 - len(signers) + i))
		list.Signatures = append(list.Signatures, s)
	}
	return marshal(&list)
}

func signOne(signer crypto.Signer, digest []byte) (*wire.Signatures_Signature, error) {
	random := rand.Reader
	if _, ok := signer.(*ecdsa.PrivateKey); ok {
		random = nil // RFC 6979: the same input gives the same payload
	}
	data, err := signer.Sign(random, digest, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	s := &wire.Signatures_Signature{Data: data}
	if _, ok := signer.Public().(*ecdsa.PublicKey); ok {
		s.UnpaddedSignatureSize = proto.Uint32(uint32(len(data)))
		s.Data = append(data, make([]byte, max(0, ecdsaSize-len(data)))...)
	}
	return s, nil
}

// signaturesSize is the length of what sign returns, whatever the digest. No
// signer is asked: it may be a machine that counts what it signs.
func signaturesSize(signers []crypto.Signer) int64 {
	var list wire.Signatures
	for i, signer := range signers {
		s := &wire.Signatures_Signature{Version: proto.Uint32(uint32(3 - len(signers) + i))}
		switch key := signer.Public().(type) {
		case *rsa.PublicKey:
			s.Data = make([]byte, key.Size())
		case *ecdsa.PublicKey:
			s.Data, s.UnpaddedSignatureSize = make([]byte, ecdsaSize), proto.Uint32(ecdsaSize)
		}
		list.Signatures = append(list.Signatures, s)
	}
	return int64(proto.Size(&list))
}

// marshal writes a message in the one order that gives the same bytes each
// time.
func marshal(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}
