"""Setting an AWS account up for a cluster: one CloudFormation stack, the first instance, the probe's schedule."""
