"""Custom resources of deploy/k8s: exactly the fields that are used there, as strict models.

The definitions' own schemas are not among the packages that this project installs, so these were written by hand
after the projects' API references (KEDA v1alpha1, JobSet v1alpha2, Prometheus operator v1, cert-manager v1). They catch
misspelt, misplaced and missing fields; that a controller accepts the values they do not show. A new field is added here
first.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Count = Annotated[int, Field(ge=0, strict=True)]


class Strict(BaseModel):
    """Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Metadata(Strict):
    """What kustomize leaves in metadata."""

    name: Name
    namespace: Name
    labels: dict[str, str] = Field(default_factory=dict)


class ScaleTarget(Strict):
    """What is scaled."""

    apiVersion: Literal["apps/v1"]  # noqa: N815
    kind: Literal["Deployment"]
    name: Name


class ScalingPolicy(Strict):
    """How fast it may go."""

    type: Literal["Pods", "Percent"]
    value: Annotated[int, Field(gt=0, strict=True)]
    periodSeconds: Annotated[int, Field(gt=0, le=1800, strict=True)]  # noqa: N815


class ScalingRules(Strict):
    """One direction of scaling."""

    stabilizationWindowSeconds: Annotated[int, Field(ge=0, le=3600, strict=True)]  # noqa: N815
    policies: list[ScalingPolicy] = Field(default_factory=list)


class Behaviour(Strict):
    """Both directions."""

    scaleUp: ScalingRules  # noqa: N815
    scaleDown: ScalingRules  # noqa: N815


class AutoscalerConfig(Strict):
    """What KEDA hands to the autoscaler that it makes."""

    behavior: Behaviour


class Advanced(Strict):
    """ScaledObject.spec.advanced."""

    horizontalPodAutoscalerConfig: AutoscalerConfig  # noqa: N815


class PrometheusQuery(Strict):
    """Metadata of KEDA's Prometheus scaler: all of it is text."""

    serverAddress: Annotated[str, Field(pattern=r"^http://[a-z.-]+:\d+$")]  # noqa: N815
    query: str
    threshold: Annotated[str, Field(pattern=r"^\d+$")]
    activationThreshold: Annotated[str, Field(pattern=r"^\d+$")]  # noqa: N815
    ignoreNullValues: Literal["true", "false"]  # noqa: N815


class Trigger(Strict):
    """One scaler."""

    type: Literal["prometheus"]
    name: str = ""
    metricType: Literal["AverageValue", "Value"]  # noqa: N815
    metadata: PrometheusQuery


class ScaledObjectSpec(Strict):
    """ScaledObject.spec."""

    scaleTargetRef: ScaleTarget  # noqa: N815
    minReplicaCount: Count  # noqa: N815
    maxReplicaCount: Count  # noqa: N815
    pollingInterval: Count  # noqa: N815
    cooldownPeriod: Count  # noqa: N815
    advanced: Advanced
    triggers: Annotated[list[Trigger], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_differ(self) -> ScaledObjectSpec:
        names = [trigger.name for trigger in self.triggers]
        if self.minReplicaCount > self.maxReplicaCount:
            raise ValueError("minReplicaCount is above maxReplicaCount")
        if len(set(names)) < len(names):
            raise ValueError("triggers share a name")
        return self


class ScaledObject(Strict):
    """keda.sh/v1alpha1."""

    apiVersion: Literal["keda.sh/v1alpha1"]  # noqa: N815
    kind: Literal["ScaledObject"]
    metadata: Metadata
    spec: ScaledObjectSpec


class JobTemplate(Strict):
    """A Job's spec, which is checked against the schema of Job itself."""

    spec: dict[str, Any]


class ReplicatedJob(Strict):
    """Jobs of one kind."""

    name: Name
    replicas: Count
    template: JobTemplate


class FailurePolicy(Strict):
    """When all is started again."""

    maxRestarts: Count  # noqa: N815


class JobSetSpec(Strict):
    """JobSet.spec."""

    failurePolicy: FailurePolicy  # noqa: N815
    replicatedJobs: Annotated[list[ReplicatedJob], Field(min_length=1)]  # noqa: N815


class JobSet(Strict):
    """jobset.x-k8s.io/v1alpha2."""

    apiVersion: Literal["jobset.x-k8s.io/v1alpha2"]  # noqa: N815
    kind: Literal["JobSet"]
    metadata: Metadata
    spec: JobSetSpec


class Relabelling(Strict):
    """Sets one label."""

    targetLabel: str  # noqa: N815
    replacement: str


class SecretKey(Strict):
    """One key of a Secret."""

    name: Name
    key: str


class FromSecret(Strict):
    """A PEM text in a Secret."""

    secret: SecretKey


class ScrapeTls(Strict):
    """By which authority and name a pod is known."""

    ca: FromSecret
    serverName: Name  # noqa: N815


class MetricsEndpoint(Strict):
    """Where a pod shows its metrics."""

    port: str
    path: Literal["/metrics"]
    scheme: Literal["https"]
    tlsConfig: ScrapeTls  # noqa: N815
    interval: Annotated[str, Field(pattern=r"^\d+s$")]
    relabelings: list[Relabelling]


class LabelSelector(Strict):
    """By labels alone."""

    matchLabels: dict[str, str]  # noqa: N815


class PodMonitorSpec(Strict):
    """PodMonitor.spec."""

    selector: LabelSelector
    podMetricsEndpoints: list[MetricsEndpoint]  # noqa: N815


class PodMonitor(Strict):
    """monitoring.coreos.com/v1."""

    apiVersion: Literal["monitoring.coreos.com/v1"]  # noqa: N815
    kind: Literal["PodMonitor"]
    metadata: Metadata
    spec: PodMonitorSpec


class CaIssuer(Strict):
    """An authority in a Secret."""

    secretName: Name  # noqa: N815


class IssuerSpec(Strict):
    """Issuer.spec: exactly one kind of issuer."""

    selfSigned: Annotated[dict[str, Any], Field(max_length=0)] | None = None  # noqa: N815
    ca: CaIssuer | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> IssuerSpec:
        if (self.selfSigned is None) == (self.ca is None):
            raise ValueError("give one of selfSigned and ca")
        return self


class Issuer(Strict):
    """cert-manager.io/v1."""

    apiVersion: Literal["cert-manager.io/v1"]  # noqa: N815
    kind: Literal["Issuer"]
    metadata: Metadata
    spec: IssuerSpec


class IssuerReference(Strict):
    """Who issues a certificate."""

    kind: Literal["Issuer"]
    name: Name


class PrivateKey(Strict):
    """How a certificate's key is made."""

    algorithm: Literal["ECDSA"]
    size: Literal[256, 384, 521]
    rotationPolicy: Literal["Always", "Never"]  # noqa: N815


Hours = Annotated[str, Field(pattern=r"^\d+h$")]
Usage = Literal["server auth", "client auth", "cert sign", "crl sign"]


class CertificateSpec(Strict):
    """Certificate.spec."""

    secretName: Name  # noqa: N815
    isCA: Annotated[bool, Field(strict=True)] = False  # noqa: N815
    issuerRef: IssuerReference  # noqa: N815
    commonName: Annotated[str, Field(max_length=64)]  # noqa: N815
    dnsNames: list[str] = Field(default_factory=list)  # noqa: N815
    duration: Hours
    renewBefore: Hours  # noqa: N815
    usages: Annotated[list[Usage], Field(min_length=1)]
    privateKey: PrivateKey  # noqa: N815

    @model_validator(mode="after")
    def _renewed_in_time(self) -> CertificateSpec:
        if int(self.renewBefore[:-1]) >= int(self.duration[:-1]):
            raise ValueError("renewBefore is not below duration")
        if not self.isCA and not self.dnsNames:
            raise ValueError("a certificate without dnsNames is good for nobody")
        return self


class Certificate(Strict):
    """cert-manager.io/v1."""

    apiVersion: Literal["cert-manager.io/v1"]  # noqa: N815
    kind: Literal["Certificate"]
    metadata: Metadata
    spec: CertificateSpec


MODELS: dict[str, type[Strict]] = {
    "ScaledObject": ScaledObject,
    "JobSet": JobSet,
    "PodMonitor": PodMonitor,
    "Issuer": Issuer,
    "Certificate": Certificate,
}
