package core

import (
	"net"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource/validate"
)

// The types of volumes that storage systems provide. Hardly anyone writes them into a pod, but each has its rules.

func (c *podCheck) partition(n int32, at *field.Path) {
	if n < 0 || n > 255 {
		c.Invalid(at.Child("partition"), n, validation.InclusiveRangeError(1, 255))
	}
}

func (c *podCheck) lun(n int32, at *field.Path) {
	if n < 0 || n > 255 {
		c.Invalid(at.Child("lun"), n, validation.InclusiveRangeError(0, 255))
	}
}

func (c *podCheck) secretRef(ref *corev1.LocalObjectReference, at *field.Path) {
	if ref != nil && ref.Name == "" {
		c.Required(at.Child("secretRef", "name"), "")
	}
}

func (c *podCheck) iscsi(s *corev1.ISCSIVolumeSource, at *field.Path) {
	c.must(at, "targetPortal", s.TargetPortal)
	if s.IQN == "" {
		c.Required(at.Child("iqn"), "")
	} else {
		c.initiator(s.IQN, at.Child("iqn"))
	}
	c.lun(s.Lun, at)
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		c.Required(at.Child("secretRef"), "")
	}
	if s.InitiatorName != nil {
		c.initiator(*s.InitiatorName, at.Child("initiatorname"))
	}
}

// initiator checks the name of an iSCSI node in one of its three forms.
func (c *podCheck) initiator(name string, at *field.Path) {
	forms := map[string]string{
		"iqn": `iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`,
		"eui": `^eui.[[:alnum:]]{16}$`,
		"naa": `^naa.[[:alnum:]]{32}$`,
	}
	form, ok := forms[name[:min(3, len(name))]]
	if !ok {
		c.Invalid(at, name, "must be valid format starting with iqn, eui, or naa")
	} else if !regexp.MustCompile(form).MatchString(name) {
		c.Invalid(at, name, "must be valid format")
	}
}

func (c *podCheck) flocker(s *corev1.FlockerVolumeSource, at *field.Path) {
	if s.DatasetName == "" && s.DatasetUUID == "" {
		c.Required(at, "one of datasetName and datasetUUID is required")
	}
	if s.DatasetName != "" && s.DatasetUUID != "" {
		c.Invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously")
	}
	if strings.Contains(s.DatasetName, "/") {
		c.Invalid(at.Child("datasetName"), s.DatasetName, "must not contain '/'")
	}
}

func (c *podCheck) quobyte(s *corev1.QuobyteVolumeSource, at *field.Path) {
	const pairs = "must be a host:port pair or multiple pairs separated by commas"
	switch {
	case s.Registry == "":
		c.Required(at.Child("registry"), pairs)
	case len(s.Tenant) >= 65:
		c.Required(at.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters")
	default:
		for pair := range strings.SplitSeq(s.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				c.Invalid(at.Child("registry"), s.Registry, pairs)
			}
		}
	}
	c.must(at, "volume", s.Volume)
}

func (c *podCheck) fibreChannel(s *corev1.FCVolumeSource, at *field.Path) {
	if len(s.TargetWWNs) == 0 {
		if len(s.WWIDs) == 0 {
			c.Required(at.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both")
		}
		return
	}
	if len(s.WWIDs) > 0 {
		c.Invalid(at.Child("targetWWNs"), s.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously")
	}
	if s.Lun == nil {
		c.Required(at.Child("lun"), "lun is required if targetWWNs is specified")
	} else {
		c.lun(*s.Lun, at)
	}
}

func (c *podCheck) flex(s *corev1.FlexVolumeSource, at *field.Path) {
	c.must(at, "driver", s.Driver)
	for key := range validate.InOrder(s.Options) {
		domain, _, _ := strings.Cut(key, "/")
		domain = "." + strings.ToLower(domain)
		if strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
			c.Invalid(at.Child("options").Key(key), key, "kubernetes.io and k8s.io namespaces are reserved")
		}
	}
}

func (c *podCheck) azureDisk(s *corev1.AzureDiskVolumeSource, at *field.Path) {
	c.must(at, "diskName", s.DiskName)
	c.must(at, "diskURI", s.DataDiskURI)
	if s.CachingMode != nil {
		validate.OneOf(&c.List, at.Child("cachingMode"), *s.CachingMode,
			corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)
	}
	if s.Kind == nil {
		return
	}
	validate.OneOf(&c.List, at.Child("kind"), *s.Kind,
		corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)
	start, example := "https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
	if *s.Kind == corev1.AzureManagedDisk {
		start = "/subscriptions/"
		example = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
	}
	if !strings.HasPrefix(s.DataDiskURI, start) {
		c.Add(field.NotSupported(at.Child("diskURI"), s.DataDiskURI, []string{example}))
	}
}

func (c *podCheck) storageOS(s *corev1.StorageOSVolumeSource, at *field.Path) {
	if s.VolumeName == "" {
		c.Required(at.Child("volumeName"), "")
	} else {
		c.Label(at.Child("volumeName"), s.VolumeName)
	}
	if s.VolumeNamespace != "" {
		c.Label(at.Child("volumeNamespace"), s.VolumeNamespace)
	}
	c.secretRef(s.SecretRef, at)
}

const maxDriverName = 63

func (c *podCheck) csi(s *corev1.CSIVolumeSource, at *field.Path) {
	c.must(at, "driver", s.Driver)
	c.Size(at.Child("driver"), len(s.Driver), maxDriverName)
	c.Messages(at.Child("driver"), s.Driver, validation.IsDNS1123Subdomain(strings.ToLower(s.Driver)))
	if ref := s.NodePublishSecretRef; ref != nil {
		if ref.Name == "" {
			c.Required(at.Child("nodePublishSecretRef", "name"), "")
		} else {
			c.Subdomain(at.Child("name"), ref.Name)
		}
	}
}

// ephemeral checks the template of the claim that will be made for the pod.
func (c *podCheck) ephemeral(s *corev1.EphemeralVolumeSource, at *field.Path) {
	at = at.Child("volumeClaimTemplate")
	tpl := s.VolumeClaimTemplate
	if tpl == nil {
		c.Required(at, "")
		return
	}
	meta := at.Child("metadata")
	c.Add(apivalidation.ValidateAnnotations(tpl.Annotations, meta.Child("annotations"))...)
	c.Add(metavalidation.ValidateLabels(tpl.Labels, meta.Child("labels"))...)
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"name", tpl.Name != ""},
		{"generateName", tpl.GenerateName != ""},
		{"namespace", tpl.Namespace != ""},
		{"uid", tpl.UID != ""},
		{"resourceVersion", tpl.ResourceVersion != ""},
		{"ownerReferences", tpl.OwnerReferences != nil},
		{"finalizers", tpl.Finalizers != nil},
	} {
		if f.set {
			c.Forbidden(meta.Child(f.name), "cannot be set")
		}
	}
	c.Add(ValidateClaimSpec(&tpl.Spec, at.Child("spec"))...)
}
