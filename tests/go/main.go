// Checks protem credentials with Go's standard library: an example to copy, held to tests/vectors/tokens.json.
//
// Reads the vectors on stdin and prints, for each case, its name, a tab, and `allow` or the code of the first check that
// failed. docs/verifying.md says why each check is there.
package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// View is what a verifier knows: whose credentials count, and which no longer do.
type View struct {
	Issuer      string   `json:"issuer"`
	Resource    string   `json:"resource"`
	Now         uint64   `json:"now"`
	AgeMS       uint64   `json:"age_ms"`
	Epoch       uint64   `json:"epoch"`
	EndedGrants []string `json:"ended_grants"`
	CutOffs     []CutOff `json:"cut_offs"`
	JWKS        struct {
		Keys []struct{ Kty, Crv, Kid, X string }
	} `json:"jwks"`
	Catalog struct {
		Resources map[string]Resource
	} `json:"catalog"`
	Cases []struct {
		Name, Token, Method, Path string
		Now                       *uint64   `json:"now"`
		AgeMS                     *uint64   `json:"age_ms"`
		CutOffs                   *[]CutOff `json:"cut_offs"`
	} `json:"cases"`
}

// CutOff voids every credential that it covers and whose grant was activated at or before Seq; a key's voids all that the key
// ever signed.
type CutOff struct {
	Seq                             uint64
	Identity, Task, Resource, Scope string
	KeyID                           string `json:"key_id"`
}

// Resource is the catalog's part about one API.
type Resource struct {
	Audience string
	Scopes   map[string]struct{ Operations []string }
}

// Claims is what a credential says.
type Claims struct {
	Issuer, Subject, Identity, Audience, Grant, Task     string
	Issued, NotBefore, Expires, Until, Seq, Epoch, Fresh uint64
	Scopes                                               []string
	Bound                                                bool
}

const (
	tokenMax   = 8 * 1024
	numberMax  = 1<<53 - 1
	secondsMax = 253_402_300_799
	lifeMax    = 86_400
	leeway     = 5
	depthMax   = 16
)

var (
	errMalformed = errors.New("PT-0402")
	base64url    = base64.RawURLEncoding.Strict()
	name         = regexp.MustCompile(`^[a-z0-9][a-z0-9._/-]*$`)
	scopeName    = regexp.MustCompile(`^[a-z0-9][a-z0-9._/:-]*$`)
	tokenID      = regexp.MustCompile(`^(gr_[0-9a-z]{26})\.(0|[1-9][0-9]{0,9})$`)
	whole        = regexp.MustCompile(`^(0|[1-9][0-9]{0,15})$`)
)

// part decodes unpadded base64url in its one spelling. Strict refuses bits that are left over, not line ends.
func part(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, errMalformed
	}
	found, err := base64url.DecodeString(text)
	if err != nil {
		return nil, errMalformed
	}
	return found, nil
}

// strict reads JSON in which no member is named twice and each number is whole: encoding/json itself takes the last of two
// members, matches names without regard to case, and mends text that is not UTF-8.
func strict(text []byte) (any, error) {
	if !utf8.Valid(text) {
		return nil, errMalformed
	}
	from := json.NewDecoder(bytes.NewReader(text))
	from.UseNumber()
	value, err := one(from, 0)
	if err != nil {
		return nil, errMalformed
	}
	if _, err := from.Token(); err != io.EOF {
		return nil, errMalformed
	}
	return value, nil
}

func one(from *json.Decoder, depth int) (any, error) {
	token, err := from.Token()
	if err != nil || depth > depthMax {
		return nil, errMalformed
	}
	switch token := token.(type) {
	case json.Number:
		number, err := strconv.ParseUint(token.String(), 10, 64)
		if err != nil || !whole.MatchString(token.String()) || number > numberMax {
			return nil, errMalformed
		}
		return number, nil
	case json.Delim:
		if token == '[' {
			list := []any{}
			for from.More() {
				value, err := one(from, depth+1)
				if err != nil {
					return nil, err
				}
				list = append(list, value)
			}
			_, err := from.Token()
			return list, err
		}
		members := map[string]any{}
		for from.More() {
			key, err := from.Token()
			if err != nil {
				return nil, err
			}
			value, err := one(from, depth+1)
			if err != nil {
				return nil, err
			}
			if _, twice := members[key.(string)]; twice {
				return nil, errMalformed
			}
			members[key.(string)] = value
		}
		_, err := from.Token()
		return members, err
	default:
		return token, nil
	}
}

// open is an object whose members are taken out one by one; the first that is missing or of another type spoils it.
type open struct {
	left   map[string]any
	spoilt bool
}

func take[T any](from *open, name string) T {
	value, fits := from.left[name].(T)
	from.spoilt = from.spoilt || !fits
	delete(from.left, name)
	return value
}

// closed says whether all was there, of its type, and nothing is left.
func (from *open) closed() bool { return !from.spoilt && len(from.left) == 0 }

func seconds(all ...uint64) bool {
	for _, at := range all {
		if at == 0 || at > secondsMax {
			return false
		}
	}
	return true
}

// claimsOf reads a closed set of claims: what is missing, of another type, or unknown makes it no credential.
func claimsOf(payload []byte) (*Claims, error) {
	value, err := strict(payload)
	members, isObject := value.(map[string]any)
	if err != nil || !isObject {
		return nil, errMalformed
	}
	from := &open{left: members}
	about := &open{left: take[map[string]any](from, "protem")}
	claims := &Claims{
		Issuer: take[string](from, "iss"), Subject: take[string](from, "sub"),
		Identity: take[string](from, "client_id"), Audience: take[string](from, "aud"),
		Issued: take[uint64](from, "iat"), NotBefore: take[uint64](from, "nbf"),
		Expires: take[uint64](from, "exp"), Scopes: strings.Split(take[string](from, "scope"), " "),
		Grant: take[string](about, "grant"), Seq: take[uint64](about, "seq"),
		Until: take[uint64](about, "until"), Epoch: take[uint64](about, "epoch"),
		Task: take[string](about, "task"), Fresh: take[uint64](about, "fresh"),
	}
	id := tokenID.FindStringSubmatch(take[string](from, "jti"))
	sound := about.closed() && !from.spoilt && id != nil && id[1] == claims.Grant &&
		claims.Issuer != "" && claims.Subject != "" && claims.Audience != "" && claims.Task != "" &&
		name.MatchString(claims.Identity) && claims.Fresh >= 1 && claims.Fresh <= 60 &&
		seconds(claims.Issued, claims.NotBefore, claims.Expires, claims.Until) &&
		claims.Issued < claims.Expires && claims.Expires-claims.Issued <= lifeMax &&
		claims.NotBefore < claims.Expires && claims.Expires <= claims.Until &&
		distinct(claims.Scopes) && optional(from, claims)
	if !sound {
		return nil, errMalformed
	}
	return claims, nil
}

func distinct(scopes []string) bool {
	seen := map[string]bool{}
	for _, scope := range scopes {
		if !scopeName.MatchString(scope) || seen[scope] {
			return false
		}
		seen[scope] = true
	}
	return true
}

// optional reads what a credential may also say: a binding, its place in a status list, and what a resource's template
// adds, which has a `/` in its name.
func optional(from *open, claims *Claims) bool {
	if cnf, there := from.left["cnf"]; there {
		claims.Bound = true
		members, _ := cnf.(map[string]any)
		for kind, value := range members {
			text, _ := value.(string)
			print, err := part(text)
			if (kind != "jkt" && kind != "x5t#S256") || err != nil || len(print) != 32 {
				return false
			}
		}
		if len(members) != 1 {
			return false
		}
		delete(from.left, "cnf")
	}
	if _, there := from.left["status"]; there {
		outer := &open{left: take[map[string]any](from, "status")}
		list := &open{left: take[map[string]any](outer, "status_list")}
		take[uint64](list, "idx")
		take[string](list, "uri")
		if from.spoilt || !outer.closed() || !list.closed() {
			return false
		}
	}
	for name, value := range from.left {
		if _, isText := value.(string); !isText || !strings.Contains(name, "/") {
			return false
		}
	}
	return len(from.left) <= 32
}

// canonical is the path without its query, if every server reads it alike.
func canonical(path string) (string, error) {
	errPath := errors.New("PT-0415")
	path, _, _ = strings.Cut(path, "?")
	if !strings.HasPrefix(path, "/") || len(path) > 4096 || strings.Contains(path, "//") {
		return "", errPath
	}
	var decoded []byte
	for at := 0; at < len(path); at++ {
		if path[at] < '!' || path[at] > '~' || strings.IndexByte("\\;#\"<>^`|{}", path[at]) >= 0 {
			return "", errPath
		}
		if path[at] != '%' {
			decoded = append(decoded, path[at])
			continue
		}
		if at+2 >= len(path) {
			return "", errPath
		}
		// What needs no escape, and what a server could read as structure.
		value, err := strconv.ParseUint(path[at+1:at+3], 16, 8)
		letter := byte(value)
		plain := letter|0x20 >= 'a' && letter|0x20 <= 'z' || letter >= '0' && letter <= '9'
		if err != nil || plain || strings.IndexByte("-._~/\\%;?#", letter) >= 0 {
			return "", errPath
		}
		decoded = append(decoded, letter)
		at += 2
	}
	// An overlong form of a dot is a dot to some, and a control character ends a line or a text for others.
	if !utf8.Valid(decoded) || strings.IndexFunc(string(decoded), unicode.IsControl) >= 0 {
		return "", errPath
	}
	for _, piece := range strings.Split(path, "/") {
		if piece == "." || piece == ".." {
			return "", errPath
		}
	}
	return path, nil
}

// allowing lists the scopes that allow an operation; of templates that overlap the most specific counts alone. Nothing allows
// what a router that does not tell `a` from `A` could take for a more specific operation.
func allowing(resource Resource, method, path string) []string {
	pieces, best, scopes := strings.Split(path, "/")[1:], "", []string(nil)
	closest := ""
	same := func(a, b string) bool { return a == b }
	for name, scope := range resource.Scopes {
		for _, operation := range scope.Operations {
			verb, path, _ := strings.Cut(operation, " ")
			if verb != method {
				continue
			}
			template := strings.Split(path, "/")[1:]
			if shape, fits := fitting(template, pieces, strings.EqualFold); fits && (closest == "" || shape < closest) {
				closest = shape
			}
			shape, fits := fitting(template, pieces, same)
			if !fits || (scopes != nil && shape > best) {
				continue
			}
			if scopes == nil || shape < best {
				best, scopes = shape, []string{}
			}
			scopes = append(scopes, name)
		}
	}
	if closest < best {
		return nil
	}
	return scopes
}

// fitting says whether a path fits a template, whose shape sorts literals before parameters, from the left.
func fitting(template, pieces []string, equal func(a, b string) bool) (string, bool) {
	if len(template) != len(pieces) {
		return "", false
	}
	shape := ""
	for at, piece := range template {
		switch {
		case strings.HasPrefix(piece, "{") && pieces[at] != "":
			shape += "1"
		case equal(piece, pieces[at]):
			shape += "0"
		default:
			return "", false
		}
	}
	return shape, true
}

// keyOf reads the closed header. The key fixes the algorithm; the token only names the key.
func keyOf(header []byte, view *View) (ed25519.PublicKey, error) {
	value, err := strict(header)
	members, _ := value.(map[string]any)
	from := &open{left: members}
	typ, alg, kid := take[string](from, "typ"), take[string](from, "alg"), take[string](from, "kid")
	if err != nil || !from.closed() || typ != "at+jwt" || (alg != "EdDSA" && alg != "Ed25519") {
		return nil, errMalformed
	}
	// Before all else of the key: it leaves the key set, and its holder is helped by another reason than a stranger.
	for _, cut := range view.CutOffs {
		if cut.KeyID != "" && cut.KeyID == kid {
			return nil, errors.New("PT-0411")
		}
	}
	for _, key := range view.JWKS.Keys {
		if key.Kid == kid && key.Kty == "OKP" && key.Crv == "Ed25519" {
			if public, err := part(key.X); err == nil && len(public) == ed25519.PublicKeySize {
				return public, nil
			}
		}
	}
	return nil, errors.New("PT-0403")
}

// Check says nothing if this credential allows this call now, by what the view knows.
func Check(token, method, path string, view *View) error {
	parts := strings.Split(token, ".")
	if len(token) > tokenMax || len(parts) != 3 {
		return errMalformed
	}
	var decoded [3][]byte
	for at, text := range parts {
		found, err := part(text)
		if err != nil {
			return err
		}
		decoded[at] = found
	}
	if len(decoded[2]) != ed25519.SignatureSize {
		return errMalformed
	}
	key, err := keyOf(decoded[0], view)
	if err != nil {
		return err
	}
	if !ed25519.Verify(key, []byte(parts[0]+"."+parts[1]), decoded[2]) {
		return errors.New("PT-0404")
	}
	claims, err := claimsOf(decoded[1])
	if err != nil {
		return err
	}
	if err := counts(claims, view); err != nil {
		return err
	}
	path, err = canonical(path)
	if err != nil {
		return err
	}
	scopes := allowing(view.Catalog.Resources[view.Resource], method, path)
	if scopes == nil {
		return errors.New("PT-0414")
	}
	for _, allowed := range scopes {
		for _, held := range claims.Scopes {
			if allowed == held {
				return nil
			}
		}
	}
	return errors.New("PT-0413")
}

// covers says whether a credential is void by a cut-off. Its place in the journal counts, never a clock; and what names nothing
// that is known here covers everything.
func (cut *CutOff) covers(claims *Claims, resource string) bool {
	if cut.KeyID != "" || claims.Seq > cut.Seq {
		return false
	}
	switch {
	case cut.Identity != "":
		return cut.Identity == claims.Identity
	case cut.Task != "":
		return cut.Task == claims.Identity+"#"+claims.Task
	case cut.Resource != "":
		return cut.Resource == resource
	case cut.Scope != "":
		for _, scope := range claims.Scopes {
			if cut.Scope == resource+"#"+scope {
				return true
			}
		}
		return false
	}
	return true
}

// counts checks what a credential says against what the view knows.
func counts(claims *Claims, view *View) error {
	ended := false
	for _, grant := range view.EndedGrants {
		ended = ended || grant == claims.Grant
	}
	for _, cut := range view.CutOffs {
		ended = ended || cut.covers(claims, view.Resource)
	}
	for _, check := range []struct {
		fails bool
		code  string
	}{
		{claims.Issuer != view.Issuer, "PT-0405"},
		{claims.Audience != view.Catalog.Resources[view.Resource].Audience, "PT-0406"},
		{claims.Epoch > view.Epoch, "PT-0418"},
		{claims.Epoch < view.Epoch, "PT-0409"},
		{view.AgeMS > claims.Fresh*1000, "PT-0417"},
		{view.Now >= claims.Expires, "PT-0407"}, // no leeway
		{claims.NotBefore > view.Now+leeway || claims.Issued > view.Now+leeway, "PT-0408"},
		{claims.Bound, "PT-0412"},
		{ended, "PT-0410"},
	} {
		if check.fails {
			return errors.New(check.code)
		}
	}
	return nil
}

func main() {
	var view View
	if err := json.NewDecoder(os.Stdin).Decode(&view); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, one := range view.Cases {
		said, then := "allow", view
		if one.Now != nil && one.AgeMS != nil {
			then.Now, then.AgeMS = *one.Now, *one.AgeMS
		}
		if one.CutOffs != nil {
			then.CutOffs = *one.CutOffs
		}
		if err := Check(one.Token, one.Method, one.Path, &then); err != nil {
			said = err.Error()
		}
		fmt.Printf("%s\t%s\n", one.Name, said)
	}
}
