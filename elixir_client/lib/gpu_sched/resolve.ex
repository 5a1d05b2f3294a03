# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Resolve do
  # From the first argument of every function to the scheduler that is meant.
  @moduledoc false

  alias GpuSched.{Context, Directory, Error}

  @type t :: {:local, Context.t()} | {:remote, node, GenServer.server()} | {:error, Error.t()}

  @spec server(GenServer.server()) :: t
  def server(:any) do
    raise ArgumentError,
          "infer, async and infer_many take :any; this function needs one scheduler, as " <>
            "GpuSched.cluster/0 lists them"
  end

  def server(pid) when is_pid(pid) and node(pid) == node(), do: local(pid, pid)
  def server(pid) when is_pid(pid), do: {:remote, node(pid), pid}

  # What comes of a setting that is not there.
  def server(nil), do: wrong(nil)
  def server({nil, _node} = other), do: wrong(other)

  # Before {name, node}, which it looks like where the term is an atom.
  def server({:global, _term} = name), do: registered(name)

  def server({name, node}) when is_atom(name) and is_atom(node) and node != node(),
    do: {:remote, node, name}

  def server({name, node}) when is_atom(name) and is_atom(node), do: server(name)
  def server({:via, module, _term} = name) when is_atom(module), do: registered(name)
  def server(name) when is_atom(name), do: registered(name)

  def server(other), do: wrong(other)

  @spec wrong(term) :: no_return
  defp wrong(other) do
    raise ArgumentError,
          "the first argument names a scheduler: a name, a pid or {name, node}; got " <>
            inspect(other, limit: 5, printable_limit: 80)
  end

  defp registered(name) do
    case GenServer.whereis(name) do
      pid when is_pid(pid) and node(pid) == node() -> local(pid, name)
      pid when is_pid(pid) -> {:remote, node(pid), pid}
      _ -> none(name)
    end
  end

  defp local(pid, name) do
    case Directory.fetch(pid) do
      {:ok, ctx} -> {:local, ctx}
      :error -> none(name)
    end
  end

  defp none(name) do
    {:error,
     Error.exception(
       reason: :unavailable,
       message:
         "no scheduler is running as #{inspect(name)} on #{node()}: start one with " <>
           "{GpuSched, name: #{inspect(name)}}, or name its node as {name, node}"
     )}
  end
end
