# SPDX-License-Identifier: Apache-2.0
defmodule ExUnitReport do
  @moduledoc """
  An ExUnit formatter that writes one JSON object a line to the file that the environment variable
  `EXUNIT_REPORT` names: one for each test, and one that says that the suite came to its end.
  """
  use GenServer

  @impl true
  def init(_options) do
    {:ok, File.open!(System.fetch_env!("EXUNIT_REPORT"), [:write, :utf8])}
  end

  @impl true
  def handle_cast({:test_finished, test}, file) do
    write(file, test.module, test.name, test.state)
    {:noreply, file}
  end

  # A setup_all that failed: its tests report themselves as invalid, one by one.
  def handle_cast({:module_finished, _module}, file), do: {:noreply, file}

  def handle_cast({:suite_finished, _times}, file) do
    IO.puts(file, ~s({"state":"finished"}))
    File.close(file)
    {:noreply, file}
  end

  def handle_cast(_event, file), do: {:noreply, file}

  defp write(file, module, name, state) do
    {state, reason} = describe(state)

    fields =
      [state: state, module: inspect(module), name: to_string(name), reason: reason]
      |> Enum.map_join(",", fn {key, value} -> ~s("#{key}":#{quoted(value)}) end)

    IO.puts(file, "{" <> fields <> "}")
  end

  defp describe(nil), do: {"passed", ""}
  defp describe({:skipped, reason}), do: {"skipped", text(reason)}
  defp describe({:excluded, reason}), do: {"excluded", text(reason)}
  defp describe({:invalid, _module}), do: {"invalid", "setup_all failed"}
  defp describe({:failed, _failures}), do: {"failed", ""}

  defp text(reason) when is_binary(reason), do: reason
  defp text(reason), do: inspect(reason)

  defp quoted(text) do
    escaped =
      for <<char::utf8 <- text>>, into: "" do
        case char do
          ?" -> "\\\""
          ?\\ -> "\\\\"
          char when char < 32 -> "\\u" <> String.pad_leading(Integer.to_string(char, 16), 4, "0")
          char -> <<char::utf8>>
        end
      end

    ~s("#{escaped}")
  end
end
