# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Server.State do
  # What the owner of the port knows, and the record of a request in flight. The other modules of
  # this folder are its parts: each takes the state and answers a new one.
  @moduledoc false

  require Record

  alias GpuSched.{Context, Local, Models, OsProcess, Owners, Relay}

  # A request in flight.
  #   to      whom it is answered: an alias; {:relay, ref, pid, to, output, deadline}; nil: nobody
  #   kind    :infer or a kind of call, see call/7
  #   bytes   of credit; nil for what takes none
  #   frame   the number of the frame it was sent in; -1: not sent yet
  #   message as it is sent
  #   leased  {lease, segments, uploads}: what makes the message once the lease is known
  #   state   :fresh, :again (sent a second time), :parted (parts of it were delivered)
  Record.defrecord(:entry, [
    :to,
    :owner,
    :kind,
    :bytes,
    :message,
    :leased,
    frame: -1,
    state: :fresh
  ])

  @type entry ::
          record(:entry,
            to: reference | relayed | nil,
            owner: pid | nil,
            kind: atom | tuple,
            bytes: non_neg_integer | nil,
            message: iodata,
            leased: {non_neg_integer, list, list} | nil,
            frame: integer,
            state: :fresh | :again | :parted
          )

  @type relayed ::
          {:relay, reference, pid, pid | reference, :binary | :list, Local.deadline()}

  defstruct [
    :opts,
    :ctx,
    :counters,
    :port,
    :process,
    :hello,
    :restart_timer,
    :restart_ms,
    :up_since,
    status: :starting,
    frame: 0,
    out: [],
    out_bytes: 0,
    pending: %{},
    renamed: %{},
    streams: %{},
    owners: %{},
    dead: [],
    relays: %{},
    waiting: %{},
    queue: :queue.new(),
    reservations: %{},
    uploaders: %{},
    models: [],
    linked: %{},
    free_requests: 0,
    free_bytes: 0,
    done: 0,
    large: 0,
    heard: true,
    silent: 0,
    refused: 0,
    overload: nil,
    leak: nil
  ]

  @type id :: non_neg_integer
  @type ticket :: reference

  # `linked` are jobs, by their ids at the port, that end with their owner.
  # `frame` is the number of the frame that is gathered in `out`. `free_*` is credit to be given back
  # at the end of the turn, and `dead` the owners whose requests are to be ended then; `done` and
  # `large` count since the last tick, `leak` is what find_leak/1 has seen. `refused` is how many were
  # refused for want of credit until the last tick, `overload` that number when that began, and when
  # it was seen last.
  @type t :: %__MODULE__{
          opts: map,
          ctx: Context.t(),
          counters: :atomics.atomics_ref(),
          port: GpuSched.Server.Transport.t() | nil,
          process: OsProcess.t() | nil,
          status: :starting | :up | :down | :dying | :closing,
          pending: %{id => entry},
          renamed: %{(reference | relayed) => id},
          streams: %{reference => id},
          owners: Owners.t(),
          dead: [pid],
          relays: %{node => Relay.t()},
          waiting: %{ticket => {reference, pid, non_neg_integer}},
          reservations: %{ticket => {pid, non_neg_integer, integer, integer}},
          uploaders: %{id => pid},
          models: [Models.spec()],
          linked: %{pos_integer => pid}
        }

  @spec reply(reference, term) :: :ok
  def reply(to, what) do
    send(to, {to, what})
    :ok
  end

  @spec tick_ms(t) :: pos_integer
  def tick_ms(%{opts: %{watchdog: :infinity}}), do: 1_000
  def tick_ms(%{opts: %{watchdog: ms}}), do: ms |> div(4) |> max(20) |> min(1_000)

  @spec name(t) :: String.t()
  def name(%{opts: %{name: nil}}), do: "GpuSched #{inspect(self())}"
  def name(%{opts: %{name: name}}), do: inspect(name)

  @spec now_ms :: integer
  def now_ms, do: :erlang.monotonic_time(:millisecond)
end
