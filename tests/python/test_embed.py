# SPDX-License-Identifier: Apache-2.0
"""Vectors of a file of texts, made by a job on one device and on two."""

import os
import tempfile
import unittest

from sched_port_client import floats
from support import PortCase, read_safetensors, write_tiny_bert


class Embed(PortCase):
    options = ("--cpu-devices=2",)
    texts = ("the cat sat", "", "on a mat", "a cat on the mat sat on a mat", "the")

    def setUp(self):
        super().setUp()
        self.client.timeout = 60
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.model = os.path.join(self.folder, "model")
        os.mkdir(self.model)
        write_tiny_bert(self.model)

    def path(self, name):
        return os.path.join(self.folder, name)

    def end_of(self, **parameters):
        """Submits the job and waits for its end."""
        parameters = {"model": self.model, "input": self.path("in.txt"), "batch": 4, **parameters}
        devices = parameters.pop("devices", 1)
        with open(self.path("in.txt"), "w", encoding="utf-8") as file:
            file.write("".join(text + "\n" for text in self.texts))
        job = self.client.call(
            "submit", {"program": "embed", "devices": devices, "parameters": parameters}
        )["job"]
        while True:
            for kind, (event, *_) in self.client.notifications:
                if (kind, event["event"], event.get("job")) == ("event", "job", job):
                    if event["state"] == "ended":
                        return event
            self.client.receive()

    def vectors(self, name, **parameters):
        event = self.end_of(output=self.path(name), **parameters)
        self.assertIsNone(event["status"])
        self.assertEqual(event["result"]["path"], self.path(name))
        self.assertEqual(event["result"]["texts"], len(self.texts))
        shape, values = read_safetensors(self.path(name))["embeddings"]
        self.assertEqual(shape, [len(self.texts), 48])
        return values

    def test_the_vectors_are_the_same_however_the_work_is_shared(self):
        self.client.load("tiny", path=self.model)
        output = self.client.infer("tiny", {"text": list(self.texts)})["outputs"]["embedding"]
        served = floats(output)
        one = self.vectors("one")
        data = self.vectors("data", devices=2)
        tensor = self.vectors("tensor", devices=2, split="tensor")
        self.assertEqual(one, data)
        for other in (served, tensor):
            self.assertLess(max(abs(x - y) for x, y in zip(one, other, strict=True)), 1e-5)

    def test_what_can_not_be_split_is_said_with_the_numbers(self):
        write_tiny_bert(self.model, heads=3)
        status = self.end_of(output=self.path("out"), devices=2, split="tensor")["status"]
        self.assertEqual(status["code"], "invalid_argument")
        self.assertIn("3 heads and a feed-forward width of 80", status["message"])
        self.assertIn("over 2 devices", status["message"])
        self.assertFalse(os.path.exists(self.path("out")))


if __name__ == "__main__":
    unittest.main()
