#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_install_systemd.py: the agent installs the plugin from within its unit's sandbox: refused and told without the
drop-in of docs/install.md, done with it, and taken off after the unit was stopped.
"""
import json
import os
import shutil
import sys

from test_systemd import SBIN, expect, main, wait_for

PRIMARY = '{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "ptp", "mtu": 1.5e3}]}\n'
DROP_IN = "[Service]\nEnvironment=AMBIENT_INSTALL_CNI=owned AMBIENT_CNI_PLUGIN=%s/ambient-cni\n" % SBIN
WRITABLE = "ReadWritePaths=/etc/cni /opt/cni\n"
UNIT = "ambient-agent.service"


def prepare(m):
    shutil.copy(os.path.join(m.bin_dir, "ambient-cni"), m.root + SBIN)
    os.makedirs(m.root + "/opt/cni/bin")
    m.write("/etc/cni/net.d/10-n.conflist", PRIMARY)
    m.write("/etc/systemd/system/%s.d/install.conf" % UNIT, DROP_IN)


def steps(m):
    own = m.root + "/etc/cni/net.d/05-ambient.conflist"

    def install():
        return m.call("GET", "/v1/status")[1].get("install", {})

    def text(path):
        with open(path) as f:
            return f.read()

    def refused():
        wait_for("the unit to be active", lambda: m.show(UNIT, "ActiveState") == "active")
        s = wait_for("the attempt", lambda: install().get("state") == "failed" and install())
        expect("Read-only file system" in s["reason"], True, f"reason {s}")
        expect(os.path.exists(own), False, "our file is there")

    def installed():
        m.write("/etc/systemd/system/%s.d/install.conf" % UNIT, DROP_IN + WRITABLE)
        m.run("systemctl", "daemon-reload")
        m.run("systemctl", "restart", UNIT)
        wait_for("the installation", lambda: install().get("state") == "installed")
        expect([p["type"] for p in json.loads(text(own))["plugins"]], ["ptp", "ambient-cni"], "chain")
        expect(os.stat(m.root + "/opt/cni/bin/ambient-cni").st_mode & 0o7777, 0o755, "the program's mode")

    def new_directory():
        """Another directory under the same name is seen in the sandbox, too."""
        os.rename(m.root + "/etc/cni/net.d", m.root + "/etc/cni/old")
        m.write("/etc/cni/net.d/10-n.conflist", PRIMARY)
        wait_for("the installation in the new directory", lambda: os.path.exists(own))

    def stopped():
        m.run("systemctl", "stop", UNIT)
        expect(os.path.exists(own), True, "our file stays")
        expect(os.path.exists(m.root + "/opt/cni/bin/ambient-cni"), True, "the program stays")

    def uninstalled():
        m.run(SBIN + "/ambient-agent", "--uninstall", "--release-pods")
        expect(os.listdir(m.root + "/etc/cni/net.d"), ["10-n.conflist"], "files")
        expect(text(m.root + "/etc/cni/net.d/10-n.conflist"), PRIMARY, "the network's file")
        expect(os.listdir(m.root + "/opt/cni/bin"), [], "programs")

    return [
        ("without the drop-in the sandbox refuses, and the agent says so and serves", refused),
        ("with it the plugin and its configuration are installed", installed),
        ("a directory that is replaced is followed", new_directory),
        ("stopping the unit removes nothing", stopped),
        ("uninstalled", uninstalled),
    ]


if __name__ == "__main__":
    sys.exit(main(steps, prepare))
