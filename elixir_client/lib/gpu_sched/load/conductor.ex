# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Conductor do
  # Has the generators of several nodes begin at the same time. They take a while to get ready, each its
  # own, since what is sent has to come to them first; so they say when they are, their clocks are held
  # against this one, and each is told when it is time on its own.
  #
  #   {:prepared, generator}         from each
  #   {:clock, conductor, ref}       to it, and back: {ref, its time}
  #   {:begin, at, error}            to it: a time on its clock, in ns, and by how much it may be wrong
  #
  # Where one of those who were to take part ends before, this process does: all others watch it.
  @moduledoc false

  alias GpuSched.Admission

  # The quickest of so many round trips says most.
  @rounds 7
  # All have been told by then: several times what the slowest way takes, and this.
  @lead_ns 100_000_000

  # For `n` generators; ends with the process that calls it.
  @spec start(pos_integer) :: pid
  def start(n) do
    caller = self()

    spawn(fn ->
      Process.monitor(caller)

      receive do
        {:parts, parts} ->
          for part <- parts, do: Process.monitor(part)
          n |> gather([]) |> begin()

        {:DOWN, _monitor, :process, _pid, _reason} ->
          :ok
      end
    end)
  end

  # The processes in which the generators run, or that wait for them.
  @spec parts(pid | nil, [pid]) :: :ok
  def parts(nil, _parts), do: :ok

  def parts(conductor, parts) do
    send(conductor, {:parts, parts})
    :ok
  end

  # For a generator that is prepared: when it is to begin, and by how much that may be wrong; it watches
  # `coordinator` meanwhile, a monitor. Told too late it is wrong by that, too.
  @spec wait(pid, reference) :: {:ok, integer, non_neg_integer} | :over
  def wait(conductor, coordinator) do
    monitor = Process.monitor(conductor)
    send(conductor, {:prepared, self()})
    told = told(conductor, monitor, coordinator)
    Process.demonitor(monitor, [:flush])
    told
  end

  defp told(conductor, monitor, coordinator) do
    receive do
      {:clock, ^conductor, ref} ->
        send(conductor, {ref, Admission.now()})
        told(conductor, monitor, coordinator)

      {:begin, at, error} ->
        {:ok, at, error + max(Admission.now() - at, 0)}

      {:DOWN, ended, :process, _pid, _reason} when ended in [monitor, coordinator] ->
        :over
    end
  end

  defp gather(0, prepared), do: prepared

  defp gather(n, prepared) do
    receive do
      {:prepared, generator} -> gather(n - 1, [generator | prepared])
      {:DOWN, _monitor, :process, _pid, _reason} -> exit(:normal)
    end
  end

  defp begin(generators) do
    clocks = for pid <- generators, do: {pid, clock(pid)}
    slowest = clocks |> Enum.map(fn {_pid, {way, _ahead}} -> way end) |> Enum.max()
    at = Admission.now() + @lead_ns + 4 * slowest
    for {pid, {way, ahead}} <- clocks, do: send(pid, {:begin, at + ahead, div(way, 2)})
  end

  # The way there and back, and how far its clock is ahead of this one: wrong by half of that way, if
  # all of it was on one side.
  defp clock(pid) do
    Enum.min(
      for _ <- 1..@rounds do
        ref = make_ref()
        sent = Admission.now()
        send(pid, {:clock, self(), ref})

        receive do
          {^ref, theirs} ->
            now = Admission.now()
            {now - sent, theirs - div(sent + now, 2)}

          {:DOWN, _monitor, :process, _pid, _reason} ->
            exit(:normal)
        end
      end
    )
  end
end
