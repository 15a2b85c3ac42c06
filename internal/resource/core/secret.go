package core

import (
	"crypto/tls"
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/validate"
)

// Secret holds what few may read.
func Secret() *resource.Kind {
	return &resource.Kind{
		GroupVersionKind: gvk("Secret"), Plural: "secrets", Singular: "secret",
		Namespaced: true, Prefix: "/registry/secrets/",
		New:     func() resource.Object { return &corev1.Secret{} },
		NewList: func() runtime.Object { return &corev1.SecretList{} },

		Default:  func(o resource.Object) { defaultSecret(o.(*corev1.Secret)) },
		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList { return secret(o.(*corev1.Secret)) },
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return secretUpdate(new.(*corev1.Secret), old.(*corev1.Secret))
		},
		Warnings: func(o resource.Object) []string { return secretWarnings(o.(*corev1.Secret)) },

		Fields: func(o resource.Object) map[string]string {
			return metaFields(o, map[string]string{"type": string(o.(*corev1.Secret).Type)})
		},
		FieldNames: append([]string{"type"}, resource.MetaNames()...),
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			column("Type", "string", corev1.Secret{}.SwaggerDoc()["type"], 0),
			column("Data", "string", corev1.Secret{}.SwaggerDoc()["data"], 0),
			resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any {
			s := o.(*corev1.Secret)
			return []any{s.Name, string(s.Type), int64(len(s.Data)), resource.Age(s, now)}
		},
	}
}

// defaultSecret names the type, and moves stringData, which can only be written, into data.
func defaultSecret(s *corev1.Secret) {
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
	for key, value := range s.StringData {
		if s.Data == nil {
			s.Data = make(map[string][]byte, len(s.StringData))
		}
		s.Data[key] = []byte(value)
	}
	s.StringData = nil
}

func secret(s *corev1.Secret) field.ErrorList {
	var l validate.List
	data := root("data")
	size := 0
	for key, value := range validate.InOrder(s.Data) {
		l.Messages(data.Key(key), key, validation.IsConfigMapKey(key))
		size += len(value)
	}
	l.Size(data, size, maxData)

	demand := func(keys ...string) {
		for _, key := range keys {
			if _, ok := s.Data[key]; !ok {
				l.Required(data.Key(key), "")
			}
		}
	}
	demandJSON := func(key string) {
		contents, ok := s.Data[key]
		if !ok {
			l.Required(data.Key(key), "")
		} else if err := json.Unmarshal(contents, &map[string]any{}); err != nil {
			l.Invalid(data.Key(key), "<secret contents redacted>", err.Error())
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			l.Required(root("metadata", "annotations").Key(corev1.ServiceAccountNameKey), "")
		}
	case corev1.SecretTypeDockercfg:
		demandJSON(corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		demandJSON(corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth: // one of the two is enough
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			demand(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			l.Required(data.Key(corev1.SSHAuthPrivateKey), "")
		}
	case corev1.SecretTypeTLS:
		demand(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return l.Errs
}

func secretUpdate(new, old *corev1.Secret) field.ErrorList {
	var l validate.List
	l.Same(root("type"), new.Type, old.Type)
	if old.Immutable != nil && *old.Immutable {
		if new.Immutable == nil || !*new.Immutable {
			l.Forbidden(root("immutable"), sealed)
		}
		if !sameBytes(new.Data, old.Data) {
			l.Forbidden(root("data"), sealed)
		}
	}
	return l.Errs
}

// secretWarnings tells of a certificate that does not go with its key, which is stored nevertheless.
func secretWarnings(s *corev1.Secret) []string {
	if s.Type != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}
