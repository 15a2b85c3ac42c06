package token

import (
	"encoding/json"
	"errors"
	"math"
	"time"

	"k8s.io/apimachinery/pkg/util/uuid"
)

// Figures of upstream's.
const (
	// InjectedSeconds is how long the token is asked for that each pod has without asking: a number that nobody would think of, by
	// which it is told from others.
	InjectedSeconds = 60*60 + 7
	// ExtendedSeconds is how long such a token is good all the same, for programs that read it only once.
	ExtendedSeconds = 365 * 24 * 60 * 60
)

// Claims are what a token says. The names and their order are upstream's.
type Claims struct {
	Audience   Audience   `json:"aud,omitempty"`
	Expiry     Date       `json:"exp,omitempty"`
	IssuedAt   Date       `json:"iat,omitempty"`
	Issuer     string     `json:"iss,omitempty"`
	ID         string     `json:"jti,omitempty"`
	Kubernetes Kubernetes `json:"kubernetes.io"`
	NotBefore  Date       `json:"nbf,omitempty"`
	Subject    string     `json:"sub,omitempty"`
}

// Kubernetes is whose token it is, and what must be there for it to be good.
type Kubernetes struct {
	Namespace      string `json:"namespace,omitempty"`
	Node           *Ref   `json:"node,omitempty"`
	Pod            *Ref   `json:"pod,omitempty"`
	Secret         *Ref   `json:"secret,omitempty"`
	ServiceAccount Ref    `json:"serviceaccount"`
	WarnAfter      Date   `json:"warnafter,omitempty"`
}

// Ref names an object.
type Ref struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// Audience is whom a token is for: written as a list, read also as one text.
type Audience []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *Audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = Audience{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// Date is a time in seconds since 1970. Zero is none.
type Date int64

// DateOf is the second that t is in.
func DateOf(t time.Time) Date { return Date(t.Unix()) }

// Time is the beginning of that second.
func (d Date) Time() time.Time { return time.Unix(int64(d), 0) }

// UnmarshalJSON implements json.Unmarshaler: others write fractions, and exponents.
func (d *Date) UnmarshalJSON(data []byte) error {
	var whole int64
	if json.Unmarshal(data, &whole) == nil {
		*d = Date(whole)
		return nil
	}
	var seconds float64
	if err := json.Unmarshal(data, &seconds); err != nil {
		return err
	}
	if math.Abs(seconds) > 1<<53 {
		return errors.New("a date that is out of bounds")
	}
	*d = Date(seconds)
	return nil
}

// Binding is what a token is made for.
type Binding struct {
	Namespace         string
	ServiceAccount    Ref
	Pod, Secret, Node *Ref // Node beside Pod is where the pod is, and else what the token is bound to
}

// Bound makes the claims of a new token that is good for life from now on. With warnAfter, its holder should have a newer one after that time.
func Bound(b Binding, audience []string, now time.Time, life, warnAfter time.Duration) Claims {
	c := Claims{
		Subject: Subject(b.Namespace, b.ServiceAccount.Name), Audience: audience, ID: string(uuid.NewUUID()),
		IssuedAt: DateOf(now), NotBefore: DateOf(now), Expiry: DateOf(now.Add(life)),
		Kubernetes: Kubernetes{Namespace: b.Namespace, ServiceAccount: b.ServiceAccount, Pod: b.Pod, Secret: b.Secret, Node: b.Node},
	}
	if warnAfter != 0 {
		c.Kubernetes.WarnAfter = DateOf(now.Add(warnAfter))
	}
	return c
}

// Subject is the name of a service account as a user.
func Subject(namespace, name string) string { return "system:serviceaccount:" + namespace + ":" + name }
