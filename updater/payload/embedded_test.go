package payload

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/drydock-os/drydock/updater/payload/internal/wire"
)

// A payload that brings the very key that signed it, in any form and at any
// place, is as good as unsigned: keys come from the host alone. Each signature
// here is right, so that a reader that took the key from the payload would take
// the payload; with the key trusted by the host it is taken.
func TestKeyIsNotTakenFromTheSignedThing(t *testing.T) {
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	image := bytes.Repeat([]byte("stem"), BlockSize)
	for _, signer := range []crypto.Signer{testKey(t, "p256"), testKey(t, "rsa2048")} {
		for form, key := range forms(t, signer) {
			for place, put := range places(key) {
				for _, f := range []forged{single(t, image, Replace, image), single1(t, image, Replace, image)} {
					f.signers = []crypto.Signer{signer}
					put(&f)
					src, major2 := f.bytes(t), f.m2 != nil
					t.Run(form+" "+place, func(t *testing.T) {
						if !bytes.Contains(src, key) {
							t.Fatal("the key is not in the payload")
						}
						refuse(t, src, Keys{stranger.Public()}, ErrSignature, major2)
						if _, err := Verify(t.Context(), src, publicKeys(signer)); err != nil {
							t.Errorf("with the key trusted: %v", err)
						}
					})
				}
			}
		}
	}
}

// forms are the ways to write a signer's public key.
func forms(t *testing.T, signer crypto.Signer) map[string][]byte {
	t.Helper()
	pkixKey, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	var raw []byte
	switch key := signer.Public().(type) {
	case *ecdsa.PublicKey:
		raw, err = key.Bytes()
	case *rsa.PublicKey:
		raw = x509.MarshalPKCS1PublicKey(key)
	}
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a release team"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"raw":             raw,
		"PKIX":            pkixKey,
		"PEM":             pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pkixKey}),
		"certificate":     certificate,
		"PEM certificate": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}),
	}
}

// places are where a payload could bring a key: fields that its format does not
// name, and one that it names for something else.
func places(key []byte) map[string]func(f *forged) {
	unknown := func(m proto.Message) {
		m.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 100, protowire.BytesType), key))
	}
	return map[string]func(f *forged){
		"in the signature": func(f *forged) {
			f.mangle = func(list *wire.Signatures) { unknown(list.Signatures[0]) }
		},
		"beside the signatures": func(f *forged) {
			f.mangle = func(list *wire.Signatures) { unknown(list) }
		},
		"as another signature": func(f *forged) {
			f.mangle = func(list *wire.Signatures) {
				list.Signatures = append([]*wire.Signatures_Signature{{Data: key}}, list.Signatures...)
			}
		},
		"in the manifest": func(f *forged) {
			if f.m2 != nil {
				unknown(f.m2)
			} else {
				unknown(f.m1)
			}
		},
	}
}
