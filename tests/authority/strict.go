// Verifies a chain and its CRL as Go's crypto/x509 does: ca.crt crl.pem leaf.crt "server" or "client" [name].
// Status 0: good. 1: refused, and why. 3: revoked.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"time"
)

func fail(why ...any) {
	fmt.Fprintln(os.Stderr, why...)
	os.Exit(1)
}

func der(path string) []byte {
	content, err := os.ReadFile(path)
	if err != nil {
		fail(err)
	}
	block, rest := pem.Decode(content)
	if block == nil || len(rest) != 0 {
		fail(path, "is not one PEM block")
	}
	return block.Bytes
}

func certificate(path string) *x509.Certificate {
	found, err := x509.ParseCertificate(der(path))
	if err != nil {
		fail(path, err)
	}
	return found
}

func main() {
	ca, leaf := certificate(os.Args[1]), certificate(os.Args[3])
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	purpose := map[string]x509.ExtKeyUsage{"server": x509.ExtKeyUsageServerAuth, "client": x509.ExtKeyUsageClientAuth}
	options := x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{purpose[os.Args[4]]}}
	if len(os.Args) > 5 {
		options.DNSName = os.Args[5]
	}
	if _, err := leaf.Verify(options); err != nil {
		fail(err)
	}
	crl, err := x509.ParseRevocationList(der(os.Args[2]))
	if err != nil {
		fail(err)
	}
	if err := crl.CheckSignatureFrom(ca); err != nil {
		fail(err)
	}
	if time.Now().Before(crl.ThisUpdate) || time.Now().After(crl.NextUpdate) {
		fail("the CRL is stale")
	}
	for _, one := range crl.RevokedCertificates {
		if one.SerialNumber.Cmp(leaf.SerialNumber) == 0 {
			os.Exit(3)
		}
	}
}
