package core

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

// Service is one address for many pods.
//
// What has to be allocated (cluster IPs, node ports) is no matter of this file: whoever allocates does so after PrepareCreate or PrepareUpdate
// and before Validate, which demands the results. service_families.go says what has to be allocated.
func Service() *resource.Kind {
	spec := corev1.ServiceSpec{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: gvk("Service"), Plural: "services", Singular: "service", ShortNames: []string{"svc"},
		Categories: []string{"all"},
		Namespaced: true, Prefix: "/registry/services/specs/",
		Connects: []string{"proxy"},
		New:      func() resource.Object { return &corev1.Service{} },
		NewList:  func() runtime.Object { return &corev1.ServiceList{} },
		// The record of the node ports that are taken is no kind, but is stored.
		Register: func(s *runtime.Scheme) { s.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.RangeAllocation{}) },

		Default: func(o resource.Object) { defaultService(o.(*corev1.Service)) },
		PrepareCreate: func(o resource.Object) {
			s := o.(*corev1.Service)
			s.Status = corev1.ServiceStatus{}
			NormalizeClusterIPs(s, nil)
		},
		PrepareUpdate: func(new, old resource.Object) {
			prepareServiceUpdate(new.(*corev1.Service), old.(*corev1.Service))
		},
		NameRule: apivalidation.NameIsDNSLabel,
		// An address that is stored may stay though none like it may come, so an update is checked where the old object is known.
		Validate: func(o resource.Object) field.ErrorList {
			if !resource.IsNew(o) {
				return nil
			}
			return serviceErrors(o.(*corev1.Service), nil)
		},
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			n, o := new.(*corev1.Service), old.(*corev1.Service)
			return append(serviceUpdate(n, o), serviceErrors(n, o)...)
		},
		Warnings: func(o resource.Object) []string { return serviceWarnings(o.(*corev1.Service)) },
		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) { new.(*corev1.Service).Spec = old.(*corev1.Service).Spec },
			ValidateUpdate: func(new, old resource.Object) field.ErrorList {
				return serviceStatus(new.(*corev1.Service), old.(*corev1.Service))
			},
		},

		Fields: func(o resource.Object) map[string]string {
			s := o.(*corev1.Service)
			return metaFields(o, map[string]string{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)})
		},
		FieldNames: append([]string{"spec.clusterIP", "spec.type"}, resource.MetaNames()...),
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			column("Type", "string", spec["type"], 0),
			column("Cluster-IP", "string", spec["clusterIP"], 0),
			column("External-IP", "string", spec["externalIPs"], 0),
			column("Port(s)", "string", spec["ports"], 0),
			resource.AgeColumn(),
			column("Selector", "string", spec["selector"], 1),
		},
		Row: func(o resource.Object, now time.Time) []any { return serviceRow(o.(*corev1.Service), now) },
	}
}

func serviceRow(s *corev1.Service, now time.Time) []any {
	clusterIP := s.Spec.ClusterIP
	if len(s.Spec.ClusterIPs) > 0 {
		clusterIP = s.Spec.ClusterIPs[0]
	}
	ports := make([]string, len(s.Spec.Ports))
	for i, p := range s.Spec.Ports {
		ports[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			ports[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return []any{
		s.Name, string(s.Spec.Type), orNone(clusterIP), externalIP(s), orNone(strings.Join(ports, ",")),
		resource.Age(s, now), labels.FormatLabels(s.Spec.Selector),
	}
}

func externalIP(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return orNone(strings.Join(s.Spec.ExternalIPs, ","))
	case corev1.ServiceTypeLoadBalancer:
		var from []string
		for _, ingress := range s.Status.LoadBalancer.Ingress {
			if ip := ingress.IP; ip != "" {
				from = append(from, ip)
			} else if ingress.Hostname != "" {
				from = append(from, ingress.Hostname)
			}
		}
		slices.Sort(from)
		if all := append(slices.Compact(from), s.Spec.ExternalIPs...); len(all) > 0 {
			return strings.Join(all, ",")
		}
		return "<pending>"
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	}
	return "<unknown>"
}
