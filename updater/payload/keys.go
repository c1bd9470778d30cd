package payload

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// Keys are the trusted public keys: RSA of 2048 to 4096 bits, or ECDSA on
// P-256. They come from the host's configuration, never from a payload.
type Keys []crypto.PublicKey

const (
	minRSABits = 2048 // what Flatcar signs with; smaller ones are broken
	maxRSABits = 4096 // verification time grows; nothing larger is in use
)

// ParseKeys reads public keys in PEM (PKIX, or PKCS#1 for RSA), any number in
// each argument. None at all is ErrNoKey.
func ParseKeys(pems ...[]byte) (Keys, error) {
	var keys Keys
	for _, rest := range pems {
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			key, err := parsePublic(block)
			if err != nil {
				return nil, fmt.Errorf("parse public key: %w", err)
			}
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, ErrNoKey
	}
	return keys, nil
}

func parsePublic(block *pem.Block) (crypto.PublicKey, error) {
	var key any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		return nil, fmt.Errorf("PEM block %q is not a public key", block.Type)
	}
	if err != nil {
		return nil, err
	}
	return key, checkKey(key)
}

// ParsePrivateKey reads one private key in PEM: PKCS#8, PKCS#1, or SEC 1 ("EC
// PRIVATE KEY"), not encrypted.
func ParsePrivateKey(pemBytes []byte) (crypto.Signer, error) {
	for rest := pemBytes; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fmt.Errorf("parse private key: no PEM block of a private key")
		}
		if block.Type == "EC PARAMETERS" { // openssl writes them first
			continue
		}
		key, err := parsePrivate(block)
		if err != nil {
			return nil, fmt.Errorf("parse private key: %w", err)
		}
		return key, nil
	}
}

func parsePrivate(block *pem.Block) (crypto.Signer, error) {
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("PEM block %q is not a private key", block.Type)
	}
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key of type %T cannot sign", key)
	}
	return signer, checkKey(signer.Public())
}

func checkKey(key crypto.PublicKey) error {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("RSA key of %d bits, want %d to %d", bits, minRSABits, maxRSABits)
		}
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return fmt.Errorf("ECDSA key on %s, want P-256", key.Curve.Params().Name)
		}
	default:
		return fmt.Errorf("key of type %T, want RSA or ECDSA", key)
	}
	return nil
}
