"""The EC2 double: moto's server as EC2, with what moto lacks added in front, in a process of its own.

``Ec2DoubleProcess`` starts it; ``python -m scaler_plugin.localcloud.ec2`` is it. Nothing here imports moto except
:mod:`scaler_plugin.localcloud.ec2.account`, which only the double's own process loads.

What it adds to moto: ``MaxCount``, ``ClientToken`` with its errors, the states ``pending`` and ``shutting-down``, shutdown
behaviour, the limits of user-data, console output, faults, a journal of calls, and state that outlives SIGKILL.
What it is not: permissions are not evaluated, prices and quotas do not exist (quotas can be injected as faults).
"""

from scaler_plugin.localcloud.ec2.process import DEMO_IMAGE_ID, Ec2DoubleProcess

__all__ = ["DEMO_IMAGE_ID", "Ec2DoubleProcess"]
