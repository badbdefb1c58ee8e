"""The agent on a node: the gate between pulling a task and retiring, the plugin that runs ``clearml-agent``, its slots."""
