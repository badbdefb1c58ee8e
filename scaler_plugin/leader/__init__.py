"""The leader's service: one pass observes ClearML, EC2 and etcd, decides purely, and acts under the fence.

Whatever fails in a pass is reported as a problem and tried again in a later one; nothing here loops or waits.
"""
