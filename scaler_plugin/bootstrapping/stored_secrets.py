"""Whether the secrets that a configuration names are stored in the account, and how to store one. No secret is read."""

from __future__ import annotations

from dataclasses import dataclass

from scaler_plugin.bootstrapping.account import Account
from scaler_plugin.bootstrapping.requirements import references
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.config.secret_ref import SecretRef, SecretSource
from scaler_plugin.errors import CloudError

#: Where `etcd certs`, called as in docs/etcd.md, puts what nodes need, and the files of it by their place in the configuration.
CERTIFICATES = "etcd-certs"
CLIENT = f"{CERTIFICATES}/clients/scaler"
FILES = {
    "etcd.tls.ca": f"{CLIENT}/ca.pem",
    "etcd.tls.cert": f"{CLIENT}/client.pem",
    "etcd.tls.key": f"{CLIENT}/client.key",
}


@dataclass(frozen=True)
class SecretFindings:
    """``missing``: no node can start before. ``unknown``: the caller may not look. A sentence for each secret."""

    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def look_for_secrets(config: ScalerConfig, account: Account) -> SecretFindings:
    """Look for every reference to AWS. Raises nothing of AWS's."""
    missing, unknown = [], []
    for place, ref in references(config).items():
        try:
            if not _exists(ref, account):
                missing.append(_missing(place, ref, account.region))
        except CloudError as error:
            unknown.append(f"{place}: whether {ref} exists is not known: {error}")
    return SecretFindings(tuple(missing), tuple(unknown))


def _missing(place: str, ref: SecretRef, region: str) -> str:
    """With the command on a line of its own, for people to copy."""
    file = FILES.get(place)
    how, command = (
        ("Store it", command_to_store(ref, region, file))
        if file
        else ("Store it (call this, then type it, Enter, and Ctrl-D)", command_to_store(ref, region))
    )
    return f"{place}: {ref} does not exist yet; no node can start before. {how}:\n    {command}"


def command_to_store(ref: SecretRef, region: str, file: str = "/dev/stdin") -> str:
    """The command that stores a secret in AWS, from a file: an argument would stand in the process list and the shell's history.

    It names the region, for the shell's own may be another one, in which no node would find the secret.
    """
    if ref.source is SecretSource.SSM:
        return f"aws ssm put-parameter --region {region} --type SecureString --name {ref.name} --value file://{file}"
    return f"aws secretsmanager create-secret --region {region} --name {ref.name} --secret-string file://{file}"


def _exists(ref: SecretRef, account: Account) -> bool:
    if ref.source is SecretSource.SSM:
        wanted = [{"Key": "Name", "Option": "Equals", "Values": [ref.name]}]
        about = f"parameter {ref.name}"
        return bool(account.pages("ssm", "describe_parameters", "Parameters", about, ParameterFilters=wanted))
    return account.found("secretsmanager", "describe_secret", f"secret {ref.name}", SecretId=ref.name) is not None
