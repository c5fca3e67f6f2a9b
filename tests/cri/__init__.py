# SPDX-License-Identifier: Apache-2.0
"""A real container runtime for the tests, the demo and the benchmarks.

client.py      the Container Runtime Interface, as the kubelet speaks it
private.py     private namespaces for one whole "node", gone without a trace when it ends
images.py      the two container images that everything here runs
node.py        containerd, the CNI chain and the pods of one node
product.py     the agent, ztunnel and what they leave in a pod's network namespace
lab.py         a node with all of them
daemon.py      long-running programs; waiting with a deadline
mesh.py        the documents that say what is in the mesh: manifests and ztunnel's local state
wire.py        what crossed the pods' bridge

See README.md for the order in which to call them.
"""
