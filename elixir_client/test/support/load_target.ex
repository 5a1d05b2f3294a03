# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.LoadTarget do
  # What load is generated on, with behaviour that is known.
  @moduledoc false

  def answer(_inputs), do: :ok

  # A server that does one thing at a time, each in `ms`; with `stall: {n, ms}` the n-th takes so long.
  def start(ms, opts \\ []) do
    stall = Keyword.get(opts, :stall, {-1, 0})
    pid = spawn_link(fn -> serve(ms, stall, 0) end)

    fn inputs ->
      ref = Process.monitor(pid)
      send(pid, {:serve, self(), ref, inputs})

      receive do
        {^ref, :ok} -> Process.demonitor(ref, [:flush]) && {:ok, inputs}
        {:DOWN, ^ref, :process, _pid, reason} -> exit(reason)
      end
    end
  end

  # Tells `to` of each request, which is a number, when it was called and when it was done: times of
  # the clock that the generator has.
  def logged(fun, to) do
    fn n ->
      called = GpuSched.Admission.now()
      result = fun.(n)
      send(to, {:served, n, called, GpuSched.Admission.now()})
      result
    end
  end

  defp serve(ms, {n, stall} = how, i) do
    receive do
      {:serve, from, ref, _inputs} ->
        receive do
        after
          if(i == n, do: stall, else: ms) -> :ok
        end

        send(from, {ref, :ok})
        serve(ms, how, i + 1)
    end
  end
end
