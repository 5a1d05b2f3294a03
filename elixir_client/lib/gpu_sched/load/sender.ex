# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Sender do
  # How one request is sent, so that whoever sends it need not wait for the answer.
  #
  # A scheduler on this node is sent its requests by the generator itself, and the answers come to
  # it: a process for each would cost more than the request. To all others, and with tensors that are
  # written into shared memory (which takes a while), each request has a process.
  @moduledoc false

  alias GpuSched.{Admission, Encode, Error, Local, Options, Protocol, Request, Resolve, Way}

  @type t ::
          {:local, GpuSched.Context.t(), String.t(), Options.t()}
          | {:async, GpuSched.server(), String.t(), keyword}
          | {:call, (term -> term)}

  # A reason, and where there is one the message.
  @type failure :: atom | {atom, String.t()}
  @type outcome :: {:ok, map} | {:error, failure}

  @spec new({:model, GpuSched.server(), String.t()} | {:call, fun}, keyword, tuple) ::
          {:ok, t} | {:error, Error.t()}
  def new({:call, fun}, _request, _pool), do: {:ok, {:call, fun}}

  def new({:model, server, model}, request, pool) do
    opts = Options.infer!(request)

    case Resolve.server(server) do
      {:local, ctx} when opts.overload == :error and opts.unavailable == :error ->
        if small?(ctx, model, opts, pool),
          do: {:ok, {:local, ctx, model, opts}},
          else: {:ok, {:async, server, model, request}}

      {:error, error} ->
        {:error, error}

      _ ->
        {:ok, {:async, server, model, request}}
    end
  end

  defp small?(ctx, model, opts, pool) do
    Enum.all?(Tuple.to_list(pool), fn inputs ->
      case Encode.request(ctx, model, inputs, opts, self()) do
        {:ok, %{uploads: uploads}} -> uploads == []
        {:error, _error} -> true
      end
    end)
  end

  # The key is what the answer's message begins with; the entry is kept until that comes. `left` is
  # called when it has left: where a function is called, in the process that calls it, since that may
  # have to wait until it is run.
  @spec send(t, term, (() -> term)) :: {:sent, reference, term} | {:answered, outcome}
  def send(sender, inputs, left \\ fn -> :ok end)

  def send({:local, ctx, model, opts}, inputs, left) do
    begun = Local.begin(ctx, model, inputs, opts)
    left.()

    case begun do
      {:ok, local} -> {:sent, local.ref, local}
      {:error, error} -> {:answered, plain({:error, error})}
    end
  end

  def send({:async, server, model, opts}, inputs, left) do
    %Request{ref: ref} = request = GpuSched.async(server, model, inputs, opts)
    left.()
    {:sent, ref, request}
  end

  # The answer is how the process ends: one message, whatever happens to it.
  def send({:call, fun}, inputs, left) do
    {pid, ref} =
      spawn_monitor(fn ->
        left.()
        exit({:gpu_sched_load, guarded(fun, inputs)})
      end)

    {:sent, ref, pid}
  end

  # Counts what failed, in a map that has the keys errors and why: of each reason one message is enough.
  @spec count(map, failure) :: map
  def count(told, {reason, message}),
    do: count(%{told | why: Map.put_new(told.why, reason, message)}, reason)

  def count(told, reason),
    do: %{told | errors: Map.update(told.errors, reason, 1, &(&1 + 1))}

  # The key and the outcome of a message that came, if it is an answer.
  @spec key(term) :: {reference, term} | nil
  def key({ref, answer}) when is_reference(ref), do: {ref, answer}
  def key({:DOWN, ref, :process, _pid, reason}), do: {ref, {:down, reason}}
  def key(_other), do: nil

  @spec outcome(term, term) :: outcome
  def outcome(%Local{} = local, answer) do
    Local.close(local)

    case answer do
      {:down, _reason} ->
        {:error, :unavailable}

      payload when is_binary(payload) ->
        payload
        |> Protocol.result()
        |> Way.learn_from(Admission.way(local.ctx.counters), local.sent)
        |> plain()

      answer ->
        plain(answer)
    end
  end

  def outcome(_entry, {:down, {:gpu_sched_load, outcome}}), do: outcome
  def outcome(_entry, {:down, _reason}), do: {:error, :exit}
  def outcome(_entry, answer), do: plain(answer)

  # It is not waited for any longer, and ends: nothing of a run goes on after it.
  @spec give_up(term) :: :ok
  def give_up(%Local{} = local), do: Local.cancel(local)
  def give_up(%Request{} = request), do: GpuSched.cancel(request)

  def give_up(pid) when is_pid(pid) do
    Process.exit(pid, :kill)
    :ok
  end

  # The same, waiting for the answer until a time.
  @spec call(t, term, integer) :: outcome
  def call(sender, inputs, until) do
    case __MODULE__.send(sender, inputs) do
      {:answered, outcome} -> outcome
      {:sent, ref, entry} -> wait(ref, entry, until)
    end
  end

  defp wait(ref, entry, until) do
    receive do
      {^ref, answer} -> outcome(entry, answer)
      {:DOWN, ^ref, :process, _pid, reason} -> outcome(entry, {:down, reason})
    after
      max(div(until - Admission.now() + 999_999, 1_000_000), 0) ->
        give_up(entry)
        {:error, :no_answer}
    end
  end

  defp guarded(fun, inputs) do
    plain(fun.(inputs))
  rescue
    error in Error -> plain({:error, error})
    error -> {:error, {error.__struct__, Exception.message(error)}}
  catch
    :exit, _reason -> {:error, :exit}
    :throw, _value -> {:error, :throw}
  end

  # What is measured is kept of a result, and what it computed is not.
  defp plain({:ok, %{"batch" => _} = result}),
    do: {:ok, Map.take(result, ["batch", "queue_us", "compute_us"])}

  defp plain({:error, %Error{reason: reason, message: message}}), do: {:error, {reason, message}}
  defp plain({:error, reason}) when is_atom(reason), do: {:error, reason}
  defp plain({:error, _reason}), do: {:error, :error}
  defp plain(:error), do: {:error, :error}
  defp plain(_anything), do: {:ok, %{}}
end
