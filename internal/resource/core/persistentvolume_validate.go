package core

import (
	"fmt"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource/validate"
)

// persistentVolume checks a volume. It uses what checks the volumes of pods, since most types are the same.
func persistentVolume(v *corev1.PersistentVolume) field.ErrorList {
	c := &podCheck{}
	s, at := &v.Spec, root("spec")
	if len(s.AccessModes) == 0 {
		c.Required(at.Child("accessModes"), "")
	}
	c.modes(s.AccessModes, at.Child("accessModes"))
	c.capacity(s.Capacity, at.Child("capacity"))
	if s.PersistentVolumeReclaimPolicy != "" {
		validate.OneOf(&c.List, at.Child("persistentVolumeReclaimPolicy"), s.PersistentVolumeReclaimPolicy,
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)
	}
	if s.NodeAffinity != nil {
		at := at.Child("nodeAffinity", "required")
		if s.NodeAffinity.Required == nil {
			c.Required(at, "must specify required node constraints")
		} else {
			c.nodeSelector(s.NodeAffinity.Required, at.Child("nodeSelectorTerms"))
		}
	}
	c.persistentSource(v, at)
	if h := s.HostPath; h != nil && path.Clean(h.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		c.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'")
	}
	if s.StorageClassName != "" {
		c.Subdomain(at.Child("storageClassName"), s.StorageClassName)
	}
	if s.VolumeMode != nil {
		validate.OneOf(&c.List, at.Child("volumeMode"), *s.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	}
	if name := s.VolumeAttributesClassName; name != nil {
		at := at.Child("volumeAttributesClassName")
		if *name == "" {
			c.Required(at, "an empty string is disallowed")
		} else {
			c.Subdomain(at, *name)
		}
		if s.CSI == nil {
			c.Required(root("spec", "csi"), "has to be specified when using volumeAttributesClassName")
		}
	}
	return c.Errs
}

// capacity demands an amount of storage, and nothing else.
func (c *podCheck) capacity(of corev1.ResourceList, at *field.Path) {
	if len(of) == 0 {
		c.Required(at, "")
	}
	if _, ok := of[corev1.ResourceStorage]; !ok || len(of) > 1 {
		c.Add(field.NotSupported(at, of, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for name, q := range validate.InOrder(of) {
		c.Quantity(at.Key(string(name)), q, false)
		if q.Sign() <= 0 {
			c.Invalid(at.Key(string(name)), q.String(), validate.NotPositive)
		}
	}
}

func (c *podCheck) persistentSource(v *corev1.PersistentVolume, at *field.Path) {
	s, found := &v.Spec.PersistentVolumeSource, false
	one := func(name, deep string, set bool, check func(at *field.Path)) {
		switch {
		case !set:
		case found:
			c.Forbidden(at.Child(name), "may not specify more than 1 volume type")
		default:
			found = true
			check(at.Child(deep))
		}
	}
	same := func(name string, set bool, check func(at *field.Path)) { one(name, name, set, check) }

	same("hostPath", s.HostPath != nil, func(at *field.Path) { c.hostPath(s.HostPath, at) })
	one("gcePersistentDisk", "persistentDisk", s.GCEPersistentDisk != nil, func(at *field.Path) {
		c.must(at, "pdName", s.GCEPersistentDisk.PDName)
		c.partition(s.GCEPersistentDisk.Partition, at)
	})
	same("awsElasticBlockStore", s.AWSElasticBlockStore != nil, func(at *field.Path) {
		c.must(at, "volumeID", s.AWSElasticBlockStore.VolumeID)
		c.partition(s.AWSElasticBlockStore.Partition, at)
	})
	same("glusterfs", s.Glusterfs != nil, func(at *field.Path) {
		c.must(at, "endpoints", s.Glusterfs.EndpointsName)
		c.must(at, "path", s.Glusterfs.Path)
		if ns := s.Glusterfs.EndpointsNamespace; ns != nil && *ns == "" {
			c.Invalid(at.Child("endpointsNamespace"), *ns, "if the endpointnamespace is set, it must be a valid namespace name")
		}
	})
	same("flocker", s.Flocker != nil, func(at *field.Path) { c.flocker(s.Flocker, at) })
	same("nfs", s.NFS != nil, func(at *field.Path) {
		c.must(at, "server", s.NFS.Server)
		c.must(at, "path", s.NFS.Path)
		if !path.IsAbs(s.NFS.Path) {
			c.Invalid(at.Child("path"), s.NFS.Path, "must be an absolute path")
		}
	})
	same("rbd", s.RBD != nil, func(at *field.Path) {
		c.mustList(at, "monitors", s.RBD.CephMonitors)
		c.must(at, "image", s.RBD.RBDImage)
	})
	same("quobyte", s.Quobyte != nil, func(at *field.Path) { c.quobyte(s.Quobyte, at) })
	one("cephFS", "cephfs", s.CephFS != nil, func(at *field.Path) { c.mustList(at, "monitors", s.CephFS.Monitors) })
	same("iscsi", s.ISCSI != nil, func(at *field.Path) { c.persistentISCSI(s.ISCSI, at) })
	if s.ISCSI != nil && s.ISCSI.InitiatorName != nil && len(v.Name)+1+len(s.ISCSI.TargetPortal) > 64 {
		c.Invalid(at.Child("name"), v.Name, "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.")
	}
	same("cinder", s.Cinder != nil, func(at *field.Path) {
		c.must(at, "volumeID", s.Cinder.VolumeID)
		c.secretOf(s.Cinder.SecretRef, at.Child("secretRef"))
	})
	same("fc", s.FC != nil, func(at *field.Path) { c.fibreChannel(s.FC, at) })
	same("flexVolume", s.FlexVolume != nil, func(at *field.Path) {
		c.flex(&corev1.FlexVolumeSource{Driver: s.FlexVolume.Driver, Options: s.FlexVolume.Options}, at)
	})
	same("azureFile", s.AzureFile != nil, func(at *field.Path) {
		c.must(at, "secretName", s.AzureFile.SecretName)
		c.must(at, "shareName", s.AzureFile.ShareName)
		if ns := s.AzureFile.SecretNamespace; ns != nil && *ns == "" {
			c.Required(at.Child("secretNamespace"), "")
		}
	})
	same("vsphereVolume", s.VsphereVolume != nil, func(at *field.Path) { c.must(at, "volumePath", s.VsphereVolume.VolumePath) })
	same("photonPersistentDisk", s.PhotonPersistentDisk != nil, func(at *field.Path) { c.must(at, "pdID", s.PhotonPersistentDisk.PdID) })
	same("portworxVolume", s.PortworxVolume != nil, func(at *field.Path) { c.must(at, "volumeID", s.PortworxVolume.VolumeID) })
	same("azureDisk", s.AzureDisk != nil, func(at *field.Path) { c.azureDisk(s.AzureDisk, at) })
	same("scaleIO", s.ScaleIO != nil, func(at *field.Path) {
		c.must(at, "gateway", s.ScaleIO.Gateway)
		c.must(at, "system", s.ScaleIO.System)
		c.must(at, "volumeName", s.ScaleIO.VolumeName)
	})
	same("local", s.Local != nil, func(at *field.Path) {
		if s.Local.Path == "" {
			c.Required(at.Child("path"), "")
		} else {
			c.noBacksteps(s.Local.Path, at.Child("path"))
		}
		if v.Spec.NodeAffinity == nil || v.Spec.NodeAffinity.Required == nil {
			c.Required(root("spec", "nodeAffinity"), "Local volume requires node affinity")
		}
	})
	same("storageos", s.StorageOS != nil, func(at *field.Path) {
		c.storageOS(&corev1.StorageOSVolumeSource{VolumeName: s.StorageOS.VolumeName, VolumeNamespace: s.StorageOS.VolumeNamespace}, at)
		if r := s.StorageOS.SecretRef; r != nil {
			c.must(at.Child("secretRef"), "name", r.Name)
			c.must(at.Child("secretRef"), "namespace", r.Namespace)
		}
	})
	same("csi", s.CSI != nil, func(at *field.Path) { c.persistentCSI(s.CSI, at) })
	if !found {
		c.Required(at, "must specify a volume type")
	}
}

func (c *podCheck) persistentISCSI(s *corev1.ISCSIPersistentVolumeSource, at *field.Path) {
	var secret *corev1.LocalObjectReference
	if s.SecretRef != nil {
		secret = &corev1.LocalObjectReference{Name: s.SecretRef.Name}
	}
	c.iscsi(&corev1.ISCSIVolumeSource{
		TargetPortal: s.TargetPortal, IQN: s.IQN, Lun: s.Lun, DiscoveryCHAPAuth: s.DiscoveryCHAPAuth, SessionCHAPAuth: s.SessionCHAPAuth,
		SecretRef: secret, InitiatorName: s.InitiatorName,
	}, at)
	if secret != nil {
		c.must(at.Child("secretRef"), "name", secret.Name)
	}
}

func (c *podCheck) persistentCSI(s *corev1.CSIPersistentVolumeSource, at *field.Path) {
	c.must(at, "driver", s.Driver)
	c.Size(at.Child("driver"), len(s.Driver), maxDriverName)
	c.Messages(at.Child("driver"), s.Driver, validation.IsDNS1123Subdomain(strings.ToLower(s.Driver)))
	c.must(at, "volumeHandle", s.VolumeHandle)
	c.secretOf(s.ControllerPublishSecretRef, at.Child("controllerPublishSecretRef"))
	c.secretOf(s.ControllerExpandSecretRef, at.Child("controllerExpandSecretRef"))
	c.secretOf(s.NodePublishSecretRef, at.Child("nodePublishSecretRef"))
	c.secretOf(s.NodeExpandSecretRef, at.Child("nodeExpandSecretRef"))
}

func (c *podCheck) secretOf(r *corev1.SecretReference, at *field.Path) {
	if r != nil {
		c.must(at, "name", r.Name)
		c.must(at, "namespace", r.Namespace)
	}
}

func persistentVolumeUpdate(new, old *corev1.PersistentVolume) field.ErrorList {
	var l validate.List
	n := new.Spec.PersistentVolumeSource
	if o := old.Spec.CSI; o != nil && o.ControllerExpandSecretRef == nil && n.CSI != nil && n.CSI.ControllerExpandSecretRef != nil {
		csi := *n.CSI // this may be added later
		csi.ControllerExpandSecretRef = nil
		n.CSI = &csi
	}
	if !equality.Semantic.DeepEqual(n, old.Spec.PersistentVolumeSource) {
		l.Forbidden(root("spec", "persistentvolumesource"),
			fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", diff.Diff(old.Spec.PersistentVolumeSource, n)))
	}
	l.Same(root("volumeMode"), new.Spec.VolumeMode, old.Spec.VolumeMode)
	if old.Spec.NodeAffinity != nil {
		l.Same(root("nodeAffinity"), new.Spec.NodeAffinity, old.Spec.NodeAffinity)
	}
	if old.Spec.VolumeAttributesClassName != nil && new.Spec.VolumeAttributesClassName == nil {
		l.Forbidden(root("spec", "volumeAttributesClassName"), "update from non-nil value to nil is forbidden")
	}
	return l.Errs
}

// modes demands known access modes, and that the one for a single pod is alone.
func (c *podCheck) modes(modes []corev1.PersistentVolumeAccessMode, at *field.Path) {
	alone, shared := false, false
	for _, mode := range modes {
		validate.OneOf(&c.List, at, mode, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)
		alone = alone || mode == corev1.ReadWriteOncePod
		shared = shared || mode != corev1.ReadWriteOncePod
	}
	if alone && shared {
		c.Forbidden(at, "may not use ReadWriteOncePod with other access modes")
	}
}
