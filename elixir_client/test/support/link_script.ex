# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.LinkScript do
  # What the tests of links run on a laptop.
  @moduledoc false

  alias GpuSched.{Admission, Way}
  alias GpuSched.Link.Near

  # Whether requests to that node go by a link: its process there, or nil.
  def link(node) do
    case GpuSched.Link.Near.fetch(node, 60_000) do
      {:ok, link} -> link.pid
      :none -> nil
    end
  end

  # What waits on this node to be sent to that one, in bytes.
  def waiting(node) do
    {:ok, link} = GpuSched.Link.Near.fetch(node, 60_000)
    :atomics.get(link.waiting, 1)
  end

  # As a caller does before it sends; this one never will.
  def count(node, bytes) do
    {:ok, link} = GpuSched.Link.Near.fetch(node, 60_000)
    :atomics.add(link.waiting, 1, bytes)
  end

  # So many requests at once. Answers the process that keeps how each ended (see ended/1).
  def flood(server, count, size, options) do
    inputs = sevens(size)

    spawn(fn ->
      me = self()

      for _ <- 1..count do
        spawn(fn ->
          send(me, {:ended, GpuSched.infer(server, "crc", inputs, options)})
        end)
      end

      keep([])
    end)
  end

  defp keep(results) do
    receive do
      {:ended, {:ok, _}} -> keep([:ok | results])
      {:ended, {:error, error}} -> keep([{error.reason, error.message} | results])
      {pid, {:ok, _}} when is_pid(pid) -> keep([:ok | results])
      {pid, {:error, error}} when is_pid(pid) -> keep([{error.reason, error.message} | results])
      :resume -> :erlang.resume_process(Process.get(:standing)) && keep(results)
      :kill -> Process.exit(Process.get(:standing), :kill) && keep(results)
      {:ended?, from} -> send(from, {self(), results}) && keep(results)
      {:trace, _pid, _what, _message, _to} -> keep(results)
    end
  end

  def ended(flood) do
    send(flood, {:ended?, self()})

    receive do
      {^flood, results} -> results
    end
  end

  # So many processes at once, each with so many requests; the answers that were not its own.
  def echo(server, callers, each) do
    1..callers
    |> Enum.map(fn caller ->
      Task.async(fn ->
        for n <- 1..each,
            text = "#{caller}/#{n}",
            answer = GpuSched.infer(server, "echo", %{x: [text]}, output: :list, timeout: 60_000),
            not match?({:ok, %{"outputs" => %{"x" => [^text]}}}, answer),
            do: answer
      end)
    end)
    |> Task.await_many(:infinity)
    |> Enum.concat()
  end

  def hold(server, inputs, options) do
    spawn(fn -> GpuSched.infer(server, "hold", inputs, options) end)
  end

  # A large call is frozen once it has sent its first piece, so that it uses no more credit; then a
  # small one is made. Answers its result, how many at the host still waited for pieces then, and the
  # result of the large one.
  def beside(server, node, size) do
    large = upload(server, size, :infinity)
    freeze_at_piece(large)
    small = GpuSched.infer(server, "echo", %{"x" => ["1"]}, timeout: 30_000)
    waiting = :erpc.call(node, __MODULE__, :helpers, [])
    true = :erlang.resume_process(large)
    {small, waiting, receive(do: ({^large, result} -> result))}
  end

  # An upload that stands still at its first piece, until it is resumed; its result goes to a process
  # that keeps it (see ended/1), as the upload itself is answered.
  def standing(server, size) do
    kept(fn -> freeze_at_piece(upload(server, size, :infinity)) end)
  end

  # By how much earlier a request to a node is to be done, with a quarter of an hour left, in ns.
  def earlier(node) do
    {:ok, link} = Near.fetch(node, 5_000)
    deadline = Admission.now() + 900_000_000_000
    deadline - Way.due(Near.way(link), deadline)
  end

  # An upload that has been asked for; nothing of it may have been sent yet.
  def asked(server, size, options) do
    kept(fn ->
      pid = upload(server, size, options)

      receive do
        {:trace, ^pid, :send, {:gs_items, [item]}, _to} when elem(item, 0) == :bulk -> pid
      end
    end)
  end

  defp kept(begin) do
    from = self()

    keeper =
      spawn(fn ->
        Process.put(:standing, begin.())
        send(from, {:begun, self()})
        keep([])
      end)

    receive do
      {:begun, ^keeper} -> keeper
    end
  end

  # The result of an upload, and how many pieces of it were sent, and how many before it was known whether
  # they would be taken.
  def pieces(server, size, options) do
    pid = upload(server, size, options)
    result = receive(do: ({^pid, result} -> result))
    delivered = :erlang.trace_delivered(pid)
    receive(do: ({:trace_delivered, ^pid, ^delivered} -> :ok))
    {result, count_pieces(pid, :gs_piece, 0), count_pieces(pid, :gs_early, 0)}
  end

  # The parts of a stream with inputs of that size, and how many pieces of these were sent.
  def stream(server, size, options) do
    counted(fn -> server |> GpuSched.stream("parts", sevens(size), options) |> Enum.to_list() end)
  end

  # Parts of that size, as they came.
  def parts_of(server, sizes) do
    for size <- sizes do
      options = [parameters: [parts: 3, bytes: size], credit: 2, timeout: 60_000]
      parts = server |> GpuSched.stream("parts", %{}, options) |> Enum.to_list()
      {length(parts), Process.info(self(), [:message_queue_len, :monitors]), parts}
    end
  end

  # A process that begins a stream whose first part is large, and stands still before it has all of it.
  def half_a_part(server, size) do
    kept(fn ->
      options = [parameters: [parts: 2, bytes: size], timeout: :infinity]

      pid =
        traced(fn ->
          server |> GpuSched.stream("parts", %{}, options) |> Enum.count() |> then(&{:ok, &1})
        end)

      freeze_at_ack(pid)
    end)
  end

  # A process that takes one part and no more.
  def reader(server, size) do
    inputs = sevens(size)
    options = [parameters: [parts: 100], credit: 2, timeout: :infinity]

    spawn(fn ->
      server
      |> GpuSched.stream("parts", inputs, options)
      |> Enum.each(fn _ -> Process.sleep(:infinity) end)
    end)
  end

  # As parts come to another process: what it got.
  def stream_to(server, size, options) do
    counted(fn ->
      with {:ok, ref} <- GpuSched.stream_to(server, "parts", sevens(size), self(), options),
           do: parts(ref, [])
    end)
  end

  defp parts(ref, parts) do
    receive do
      {^ref, {:part, part}} -> parts(ref, [part | parts])
      {^ref, {:done, _result}} -> Enum.reverse(parts)
    end
  end

  defp sevens(size) do
    data = %{"datatype" => "UINT8", "shape" => [size], "data" => :binary.copy(<<7>>, size)}
    %{"data" => data}
  end

  defp counted(fun) do
    pid = traced(fun)
    result = receive(do: ({^pid, result} -> result))
    delivered = :erlang.trace_delivered(pid)
    receive(do: ({:trace_delivered, ^pid, ^delivered} -> :ok))
    {result, count_pieces(pid, :gs_piece, 0) + count_pieces(pid, :gs_early, 0)}
  end

  # The same of one that has to wait for an upload that stands still, which is resumed then.
  def behind(standing, server, size) do
    pid = upload(server, size, overload: :wait, timeout: :infinity)

    receive do
      {:trace, ^pid, :send, {:gs_items, _items}, _to} -> :ok
    end

    # What is asked later is answered, so that has come.
    {:ok, _} = GpuSched.infer(server, "echo", %{}, timeout: :infinity)
    send(standing, :resume)
    result = receive(do: ({^pid, result} -> result))
    {result, count_pieces(pid, :gs_piece, 0), count_pieces(pid, :gs_early, 0)}
  end

  defp count_pieces(pid, kind, n) do
    receive do
      {:trace, ^pid, :send, {_tag, {^kind, _piece}}, _to} -> count_pieces(pid, kind, n + 1)
    after
      0 -> n
    end
  end

  # So many uploads are under way when the host is stopped; how they end, or :late for those that don't
  # until long after their deadline. Together they are more than any buffer on the way takes.
  def upload_stopped(server, count, size, os_pid, timeout) do
    uploads = for _ <- 1..count, do: freeze_at_piece(upload(server, size, timeout))
    :os.cmd(~c"kill -STOP #{os_pid}")
    for pid <- uploads, do: true = :erlang.resume_process(pid)

    for pid <- uploads do
      receive do
        {^pid, {:error, error}} -> error.reason
        {^pid, other} -> other
      after
        timeout + 20_000 -> :late
      end
    end
  end

  defp upload(server, size, timeout) when not is_list(timeout),
    do: upload(server, size, timeout: timeout)

  defp upload(server, size, options) do
    inputs = sevens(size)
    traced(fn -> GpuSched.infer(server, "crc", inputs, options) end)
  end

  # A process that sends what the function answers.
  defp traced(fun) do
    to = self()

    pid =
      spawn(fn ->
        receive do: (:go -> :ok)
        send(to, {self(), fun.()})
      end)

    :erlang.trace(pid, true, [:send])
    send(pid, :go)
    pid
  end

  defp freeze_at_piece(pid) do
    receive do
      {:trace, ^pid, :send, {_tag, {kind, _piece}}, _to} when kind in [:gs_piece, :gs_early] ->
        true = :erlang.suspend_process(pid)
    end

    :erlang.trace(pid, false, [:send])
    pid
  end

  defp freeze_at_ack(pid) do
    receive do
      {:trace, ^pid, :send, {_tag, {:gs_ack, _bytes}}, _to} ->
        true = :erlang.suspend_process(pid)
    end

    :erlang.trace(pid, false, [:send])
    pid
  end

  # How long a request takes, in µs, and its result.
  def timed(:infer, server, timeout),
    do: :timer.tc(fn -> GpuSched.infer(server, "echo", %{}, timeout: timeout) end)

  def timed(:async, server, timeout) do
    :timer.tc(fn ->
      server |> GpuSched.async("echo", %{}, timeout: timeout) |> GpuSched.await(:infinity)
    end)
  end

  # Takes no message any more.
  def freeze(pid) do
    spawn(fn ->
      true = :erlang.suspend_process(pid)
      Process.sleep(:infinity)
    end)
  end

  # Processes on a host that have not sent all of a large part yet.
  def lanes do
    Enum.count(Process.list(), fn pid ->
      Process.info(pid, :current_function) ==
        {:current_function, {GpuSched.Relay.Lane, :push, 3}}
    end)
  end

  # Processes on a host that deal with a large request or result.
  def helpers do
    Enum.count(Process.list(), fn pid ->
      match?(
        {:current_function, {GpuSched.Link.Far, function, _}}
        when function in [:push, :receive_bulk],
        Process.info(pid, :current_function)
      )
    end)
  end

  # How many answers are good.
  def many(server, model, inputs, options) do
    server |> GpuSched.infer_many(model, inputs, options) |> Enum.count(&match?({:ok, _}, &1))
  end

  # What is left in this process after requests of all kinds.
  def leftovers(server) do
    big = %{
      "datatype" => "UINT8",
      "shape" => [3_000_000],
      "data" => :binary.copy(<<1>>, 3_000_000)
    }

    {:ok, _} = GpuSched.infer(server, "echo", %{x: ["1"]})
    {:ok, _} = GpuSched.infer(server, "echo", %{"x" => big})
    {:ok, _} = GpuSched.infer(server, "big", %{}, parameters: [bytes: 3_000_000])
    {:error, _} = GpuSched.infer(server, "nothing", %{})
    {:error, _} = GpuSched.infer(server, "hold", %{}, timeout: 20)
    {:error, _} = GpuSched.infer(server, "hold", %{"x" => big}, timeout: 100)

    {Process.info(self(), [:message_queue_len, :monitors]), Process.info(self(), :messages)}
  end
end
