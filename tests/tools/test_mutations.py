# SPDX-License-Identifier: Apache-2.0
"""The mutations of tools/mutations.py fit the core as it is: each has its place, and changes it."""

import importlib.util
import os
import unittest

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
spec = importlib.util.spec_from_file_location(
    "mutations", os.path.join(ROOT, "tools", "mutations.py"))
mutations = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutations)


class Mutations(unittest.TestCase):
    def test_each_has_its_place(self):
        for name, file, old, new, *_ in mutations.MUTATIONS:
            with self.subTest(name):
                with open(os.path.join(ROOT, "libsched", "core", file), encoding="utf-8") as source:
                    self.assertEqual(source.read().count(old), 1)
                self.assertNotEqual(old, new)


if __name__ == "__main__":
    unittest.main()
