# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Doctor.Finding do
  # One thing that was looked at. This folder and laptop/ know OTP and Elixir alone: a laptop that has
  # none of our code runs them from source, before it is connected to anything.
  @moduledoc false

  @type level :: :ok | :note | :warning | :problem
  @type t :: %{check: atom, level: level, text: String.t(), advice: String.t() | nil}

  @spec ok(atom, String.t()) :: t
  def ok(check, text), do: new(check, :ok, text, nil)

  @spec note(atom, String.t(), String.t() | nil) :: t
  def note(check, text, advice \\ nil), do: new(check, :note, text, advice)

  @spec warning(atom, String.t(), String.t()) :: t
  def warning(check, text, advice), do: new(check, :warning, text, advice)

  @spec problem(atom, String.t(), String.t()) :: t
  def problem(check, text, advice), do: new(check, :problem, text, advice)

  defp new(check, level, text, advice),
    do: %{check: check, level: level, text: text, advice: advice}

  # Where there was another way, what failed on the first one is only worth a note.
  @spec soften(t) :: t
  def soften(%{level: :problem} = finding), do: %{finding | level: :note}
  def soften(finding), do: finding

  @spec print([t], IO.device()) :: :ok
  def print(findings, device \\ :stdio) do
    for finding <- findings do
      IO.puts(device, [sign(finding.level), "  ", indent(finding.text)])
      if finding.advice, do: IO.puts(device, ["         ", indent(finding.advice)])
    end

    :ok
  end

  defp sign(:ok), do: "     ok"
  defp sign(:note), do: "   note"
  defp sign(:warning), do: "warning"
  defp sign(:problem), do: "  WRONG"

  defp indent(text), do: String.replace(text, "\n", "\n         ")
end
