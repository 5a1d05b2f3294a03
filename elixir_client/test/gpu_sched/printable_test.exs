# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.PrintableTest do
  use ExUnit.Case, async: true

  alias GpuSched.Printable

  test "what a terminal would obey is replaced, and the rest is as it was" do
    assert Printable.line("all-MiniLM é 模型 🙂") == "all-MiniLM é 模型 🙂"

    assert Printable.line("a\e[2Jb\r\n\tc\u009b31md\d") ==
             "a\uFFFD[2Jb\uFFFD\uFFFD\uFFFDc\uFFFD31md\uFFFD"

    assert Printable.line("a\u202eb\u2066c") == "a\uFFFDb\uFFFDc"
    assert Printable.line(<<"a", 0xFF, 0x9B, "b">>) == "a\uFFFDb"
    assert Printable.text(["a\e\n", "b"]) == "a\uFFFD\nb"
  end
end
