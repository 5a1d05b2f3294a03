# SPDX-License-Identifier: Apache-2.0
"""Sentence embeddings through the port; how right they are is tested elsewhere."""

import math
import unittest

from sched_port_client import floats
from support import PortCase, find_model


class Encoder(PortCase):
    def setUp(self):
        self.path = find_model()
        if self.path is None:
            self.skipTest("all-MiniLM-L6-v2 is not here: set GPU_SCHED_MINILM to its folder")
        super().setUp()
        self.client.timeout = 60
        self.model = self.client.load("minilm", path=self.path)

    def vectors(self, inputs, **options):
        result = self.client.infer("minilm", inputs, **options)
        (output,) = result["outputs"].values()
        rows, width = output["shape"]
        numbers = floats(output)
        return [numbers[i * width : (i + 1) * width] for i in range(rows)]

    def test_nearer_in_meaning_is_nearer(self):
        a, b, c = self.vectors(
            {"text": ["A cat sits on the mat.", "A kitten rests on a rug.", "Stocks fell today."]}
        )
        self.assertAlmostEqual(math.fsum(x * x for x in a), 1, places=4)
        near = math.fsum(x * y for x, y in zip(a, b))
        far = math.fsum(x * y for x, y in zip(a, c))
        self.assertGreater(near, far + 0.2)

    def test_a_text_alone_is_a_list_of_one(self):
        (alone,) = self.vectors({"text": "hello"})
        (listed,) = self.vectors({"text": ["hello"]})
        (typed,) = self.vectors({"text": {"datatype": "BYTES", "shape": [1], "data": ["hello"]}})
        for other in (listed, typed):
            self.assertLess(max(abs(x - y) for x, y in zip(alone, other)), 1e-5)

    def test_bad_text(self):
        self.assert_error("invalid_argument", self.client.infer, "minilm", {"text": [b"\xff\xfe"]})
        self.assert_error("invalid_argument", self.client.infer, "minilm", {"text": [1]})
        self.assert_error("invalid_argument", self.client.infer, "minilm", {})

    def test_an_input_that_takes_several_datatypes_is_named_once(self):
        error = self.assert_error(
            "invalid_argument", self.client.infer, "minilm", {"nope": ["x"]}
        )
        self.assertIn("it takes text, input_ids, attention_mask", str(error))


if __name__ == "__main__":
    unittest.main()
