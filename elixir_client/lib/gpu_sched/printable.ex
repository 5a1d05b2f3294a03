# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Printable do
  # Text from elsewhere (names of models and jobs, what went wrong) on a terminal: a character that a
  # terminal obeys rather than shows would let whoever chose the name move the cursor, change colours
  # or worse.
  @moduledoc false

  # Control characters, and those that turn the direction of writing.
  @obeyed ~r/[\x{00}-\x{1f}\x{7f}-\x{9f}\x{2028}-\x{202e}\x{2066}-\x{2069}]/u

  # On one line; what cannot be shown is a "\uFFFD".
  @spec line(String.t()) :: String.t()
  def line(text) do
    text = if String.valid?(text), do: text, else: valid(text)
    Regex.replace(@obeyed, text, "\uFFFD")
  end

  defp valid(text) do
    text
    |> String.chunk(:valid)
    |> Enum.map_join(&if(String.valid?(&1), do: &1, else: "\uFFFD"))
  end

  # The same, where lines may end.
  @spec text(iodata) :: String.t()
  def text(text) do
    text
    |> IO.iodata_to_binary()
    |> String.split("\n")
    |> Enum.map_join("\n", &line/1)
  end
end
