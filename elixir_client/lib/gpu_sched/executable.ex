# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Executable do
  # Where sched-port is, how it is called, and what its exit status says.
  @moduledoc false

  alias GpuSched.Error

  @name "sched-port"

  # A pair is a module that plays it, and what that is given.
  @spec find(String.t() | {module, term} | nil) ::
          {:ok, String.t() | {module, term}} | {:error, Error.t()}
  def find(nil) do
    # Empty is how an environment says that there is none.
    Enum.find_value(places(), fn {place, path} -> path not in [nil, ""] && check(path, place) end) ||
      {:error, not_found()}
  end

  def find({module, _config} = played) when is_atom(module), do: {:ok, played}
  def find(path), do: check(path, "the option port_path")

  defp places do
    [
      {"config :gpu_sched, :port_path", Application.get_env(:gpu_sched, :port_path)},
      {"GPU_SCHED_PORT", System.get_env("GPU_SCHED_PORT")},
      {"priv/", priv()},
      {"PATH", System.find_executable(@name)}
    ]
  end

  # Where `mix gpu_sched.build` puts it.
  defp priv do
    with dir when is_list(dir) <- :code.priv_dir(:gpu_sched),
         path = Path.join([List.to_string(dir), "bin", @name]),
         true <- File.exists?(path) do
      path
    else
      _ -> nil
    end
  end

  # A place that names a program which is not there is a mistake; looking further would hide it.
  defp check(path, place) do
    path = Path.expand(path)

    case File.stat(path) do
      {:ok, %{type: :regular, mode: mode}} when Bitwise.band(mode, 0o111) != 0 ->
        {:ok, path}

      {:ok, _stat} ->
        {:error, unusable("#{path}, from #{place}, is not a program that can be run")}

      {:error, posix} ->
        {:error, unusable("#{path}, from #{place}: #{:file.format_error(posix)}")}
    end
  end

  defp unusable(text), do: Error.exception(reason: :port_not_found, message: text)

  defp not_found do
    Error.exception(
      reason: :port_not_found,
      message:
        "sched-port was not found: run `mix gpu_sched.build` (it needs CMake and a C compiler), " <>
          "or say where it is by the option port_path:, `config :gpu_sched, :port_path`, or the " <>
          "environment variable GPU_SCHED_PORT. Without it this library is a client: name the " <>
          "node of a scheduler as {name, node}"
    )
  end

  @spec name(String.t() | {module, term}) :: String.t()
  def name({module, _config}), do: inspect(module)
  def name(path), do: path

  @spec args(keyword) :: [String.t()]
  def args(options) do
    Enum.flat_map(options, fn
      {_key, false} -> []
      {key, true} -> ["--" <> dashed(key)]
      {key, value} -> ["--#{dashed(key)}=#{value}"]
    end)
  end

  defp dashed(key), do: key |> Atom.to_string() |> String.replace("_", "-")

  # Why it ended before its hello. What it printed went to standard error; for an option that it
  # does not understand it is asked again, because that answer is immediate and always the same.
  @spec start_failure(String.t() | {module, term}, [String.t()], term) :: Error.t()
  def start_failure({_module, _config} = played, _args, status) do
    message = "#{name(played)} did not start: #{describe(status)}"
    Error.exception(reason: :start_failed, message: message)
  end

  def start_failure(path, args, 64) do
    Error.exception(
      reason: :start_failed,
      message: "#{path} does not take its options: #{said(path, args)}"
    )
  end

  def start_failure(path, _args, status) do
    Error.exception(
      reason: :start_failed,
      message: "#{path} did not start: #{describe(status)}; it says why on standard error"
    )
  end

  defp said(path, args) do
    task = Task.async(fn -> System.cmd(path, args, stderr_to_stdout: true) end)

    case Task.yield(task, 2_000) || Task.shutdown(task, :brutal_kill) do
      {:ok, {text, _status}} when text != "" -> String.trim(text)
      _ -> "it says why on standard error"
    end
  end

  @spec describe(term) :: String.t()
  def describe(70), do: "it exited with status 70 (it could not start, or go on)"
  def describe(127), do: "it exited with status 127 (a library it needs is missing)"

  def describe(status) when is_integer(status) and status > 128,
    do: "it was ended by signal #{status - 128}"

  def describe(status) when is_integer(status), do: "it exited with status #{status}"
  def describe(text) when is_binary(text), do: text
  def describe(other), do: inspect(other, limit: 8)
end
