package batch

import (
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
	"sampan.dev/internal/resource/validate"
)

// longestCronJobName leaves room for what its jobs' names have more: a hyphen and the minutes since 1970.
const longestCronJobName = 52

// CronJob begins jobs by the clock.
func CronJob() *resource.Kind {
	spec, status := batchv1.CronJobSpec{}.SwaggerDoc(), batchv1.CronJobStatus{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: gvk("CronJob"), Plural: "cronjobs", Singular: "cronjob", ShortNames: []string{"cj"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "/registry/cronjobs/",
		New:     func() resource.Object { return &batchv1.CronJob{} },
		NewList: func() runtime.Object { return &batchv1.CronJobList{} },

		Default: func(o resource.Object) { defaultCronJob(&o.(*batchv1.CronJob).Spec) },
		PrepareCreate: func(o resource.Object) {
			j := o.(*batchv1.CronJob)
			j.Status, j.Generation = batchv1.CronJobStatus{}, 1
			dropDisabled(&j.Spec.JobTemplate.Spec)
		},
		PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*batchv1.CronJob), old.(*batchv1.CronJob)
			n.Status = o.Status
			dropDisabled(&n.Spec.JobTemplate.Spec)
			if n.Generation = o.Generation; !equality.Semantic.DeepEqual(n.Spec, o.Spec) {
				n.Generation++
			}
		},
		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList { return cronJob(o.(*batchv1.CronJob)) },
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			var c check
			n, o := new.(*batchv1.CronJob), old.(*batchv1.CronJob)
			if !equality.Semantic.DeepEqual(n.Spec.TimeZone, o.Spec.TimeZone) {
				c.zone(n.Spec.TimeZone, field.NewPath("spec", "timeZone"))
			}
			return c.Errs
		},
		Warnings: func(o resource.Object) []string {
			return warnings(o, &o.(*batchv1.CronJob).Spec.JobTemplate.Spec, field.NewPath("spec", "jobTemplate", "spec"))
		},
		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) { new.(*batchv1.CronJob).Spec = old.(*batchv1.CronJob).Spec },
		},

		Fields:     resource.MetaFields,
		FieldNames: []string{"metadata.name", "metadata.namespace"},
		Columns: append([]metav1.TableColumnDefinition{
			resource.NameColumn(), resource.Column("Schedule", "string", spec["schedule"]), resource.Column("Timezone", "string", spec["timeZone"]),
			resource.Column("Suspend", "boolean", spec["suspend"]), resource.Column("Active", "integer", status["active"]),
			resource.Column("Last Schedule", "string", status["lastScheduleTime"]), resource.AgeColumn(),
		}, core.TemplateColumns(batchv1.JobSpec{}.SwaggerDoc()["selector"])...),
		Row: func(o resource.Object, now time.Time) []any {
			j := o.(*batchv1.CronJob)
			zone, suspend, last := "<none>", "<unset>", "<none>"
			if j.Spec.TimeZone != nil {
				zone = *j.Spec.TimeZone
			}
			if j.Spec.Suspend != nil {
				suspend = map[bool]string{true: "True", false: "False"}[*j.Spec.Suspend]
			}
			if j.Status.LastScheduleTime != nil {
				last = resource.Since(*j.Status.LastScheduleTime, now)
			}
			names, images := core.TemplateCells(&j.Spec.JobTemplate.Spec.Template)
			return []any{
				j.Name, j.Spec.Schedule, zone, suspend, int64(len(j.Status.Active)), last, resource.Since(j.CreationTimestamp, now),
				names, images, metav1.FormatLabelSelector(j.Spec.JobTemplate.Spec.Selector),
			}
		},
	}
}

func defaultCronJob(s *batchv1.CronJobSpec) {
	if s.ConcurrencyPolicy == "" {
		s.ConcurrencyPolicy = batchv1.AllowConcurrent
	}
	setDefault(&s.Suspend, false)
	setDefault(&s.SuccessfulJobsHistoryLimit, 3)
	setDefault(&s.FailedJobsHistoryLimit, 1)
	defaultJobSpec(&s.JobTemplate.Spec)
}

func cronJob(j *batchv1.CronJob) field.ErrorList {
	var c check
	at := field.NewPath("spec")
	s := &j.Spec
	if s.Schedule == "" {
		c.Required(at.Child("schedule"), "")
	} else if _, err := ParseSchedule(s.Schedule, nil); err != nil {
		c.Invalid(at.Child("schedule"), s.Schedule, err.Error())
	}
	count(&c, s.StartingDeadlineSeconds, at.Child("startingDeadlineSeconds"))
	if resource.IsNew(j) {
		c.zone(s.TimeZone, at.Child("timeZone"))
	}
	validate.OneOfRequired(&c.List, at.Child("concurrencyPolicy"), s.ConcurrencyPolicy, batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)
	template, job := at.Child("jobTemplate", "spec"), &s.JobTemplate.Spec
	c.jobSpec(job, template)
	if job.Selector != nil {
		c.Invalid(template.Child("selector"), job.Selector, "`selector` will be auto-generated")
	}
	if orZero(job.ManualSelector) {
		c.Add(field.NotSupported(template.Child("manualSelector"), job.ManualSelector, []string{"nil", "false"}))
	}
	count(&c, s.SuccessfulJobsHistoryLimit, at.Child("successfulJobsHistoryLimit"))
	count(&c, s.FailedJobsHistoryLimit, at.Child("failedJobsHistoryLimit"))
	if resource.IsNew(j) && len(j.Name) > longestCronJobName {
		c.Invalid(field.NewPath("metadata", "name"), j.Name, "must be no more than "+strconv.Itoa(longestCronJobName)+" characters")
	}
	return c.Errs
}

// isZonePart says what may stand between two slashes of a time zone's name (IANA, "Theory and pragmatics of the tz code and data"), with the digits and
// plus signs of old names.
func isZonePart(s string) bool {
	const signs = ".-_+"
	return len(s) >= 1 && len(s) <= 14 && s != "." && s != ".." && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(signs, r)
	})
}

func (c *check) zone(zone *string, at *field.Path) {
	switch {
	case zone == nil:
		return
	case *zone == "":
		c.Invalid(at, zone, "timeZone must be nil or non-empty string")
		return
	}
	for part := range strings.SplitSeq(*zone, "/") {
		if !isZonePart(part) {
			c.Invalid(at, zone, "unknown time zone "+*zone)
			return
		}
	}
	if strings.EqualFold(*zone, "Local") {
		c.Invalid(at, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")
	}
	if _, err := time.LoadLocation(*zone); err != nil {
		c.Invalid(at, zone, err.Error())
	}
}
