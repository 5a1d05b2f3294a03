# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Error do
  @moduledoc """
  What every function of `GpuSched` answers when something did not work.

      case GpuSched.infer(MyApp.Gpu, "minilm", inputs) do
        {:ok, result} -> result
        {:error, %GpuSched.Error{reason: :overloaded, retry_after_ms: ms}} -> come_back_in(ms)
        {:error, %GpuSched.Error{scope: :request} = error} -> raise error
      end

  It is an exception:

      iex> error = GpuSched.Error.exception(reason: :queue_full, retry_after_ms: 20)
      iex> {error.scope, Exception.message(error)}
      {:model, "the queue of the model is full; come back later"}

  The fields:

    * `:reason` - an atom of the table below, to match on;
    * `:message` - what was wrong, what was got and what to do. It is carried ready made, so it
      prints on a node that does not have this module: there the error is a map, and
      `error.message` is its text;
    * `:scope` - the largest thing affected: `:request`, `:model`, `:device` or `:scheduler`.
      Where it is `:request`, other requests are served as before;
    * `:status` - the number of the reason in `libsched/status.h`; `nil` where the error did not
      come from the scheduler itself;
    * `:retry_after_ms` - the time after which it is worth coming back, where it is.

  | reason | scope | |
  |---|---|---|
  | `:invalid_argument` | request | an input, a parameter or a shape that the model does not take |
  | `:deadline_exceeded` | request | it was not done within `timeout:` |
  | `:cancelled` | request | its owner took it back, or died |
  | `:too_large` | request | larger than a limit that more patience does not lift |
  | `:poisoned` | request | it ended its worker, twice, when it ran alone |
  | `:not_found` | request | no request, job or lease of that name |
  | `:client_limit` | request | its client has as many waiting as one may; come back later |
  | `:time_limit` | request | a job that ran into its `:time_limit` |
  | `:unknown_model` | model | no model of that name is loaded |
  | `:model_not_ready` | model | it is still loading |
  | `:bad_model` | model | its files or its parameters are not acceptable |
  | `:already_loaded` | model | a model of that name is there already |
  | `:engine_failed` | model | the engine failed, or does not do what was asked |
  | `:queue_full` | model | too many requests wait for it; come back later |
  | `:no_device` | device | no such device, or it cannot be used |
  | `:device_lost` | device | it failed while the work ran |
  | `:out_of_device_memory` | device | it has not enough memory |
  | `:overloaded` | scheduler | the credit is used up; come back later, or `overload: :wait` |
  | `:closing` | scheduler | it is shutting down |
  | `:out_of_memory` | scheduler | the host has no memory left |
  | `:system_error` | scheduler | a system call failed |
  | `:not_supported` | scheduler | not supported here, or by this version |
  | `:protocol_error` | scheduler | the two sides do not understand each other |
  | `:unavailable` | scheduler | there is no scheduler there, it is restarting, or the node is not reachable |
  | `:job_lost` | scheduler | the job's `sched-port` ended, and the job with it |
  | `:start_failed` | scheduler | `sched-port` could not be started |
  | `:port_not_found` | scheduler | there is no `sched-port` on this machine |
  | `:unknown` | scheduler | a code that this version does not know |
  """

  @type reason ::
          :invalid_argument
          | :deadline_exceeded
          | :cancelled
          | :too_large
          | :poisoned
          | :not_found
          | :client_limit
          | :time_limit
          | :unknown_model
          | :model_not_ready
          | :bad_model
          | :already_loaded
          | :engine_failed
          | :queue_full
          | :no_device
          | :device_lost
          | :out_of_device_memory
          | :overloaded
          | :closing
          | :out_of_memory
          | :system_error
          | :not_supported
          | :protocol_error
          | :unavailable
          | :job_lost
          | :start_failed
          | :port_not_found
          | :unknown

  @type scope :: :request | :model | :device | :scheduler

  @type t :: %__MODULE__{
          reason: reason,
          message: String.t(),
          scope: scope,
          status: neg_integer | nil,
          retry_after_ms: non_neg_integer | nil
        }

  defexception [:reason, :message, :status, :retry_after_ms, scope: :scheduler]

  # The codes of libsched/status.h: what crosses the wire is turned into these atoms and no others.
  @codes [
    invalid_argument: -101,
    deadline_exceeded: -102,
    cancelled: -103,
    too_large: -104,
    poisoned: -105,
    not_found: -106,
    client_limit: -107,
    time_limit: -108,
    unknown_model: -201,
    model_not_ready: -202,
    bad_model: -203,
    already_loaded: -204,
    engine_failed: -205,
    queue_full: -206,
    no_device: -301,
    device_lost: -302,
    out_of_device_memory: -303,
    overloaded: -401,
    closing: -402,
    out_of_memory: -403,
    system_error: -404,
    not_supported: -405,
    protocol_error: -406
  ]

  @impl true
  def exception(fields) when is_list(fields) do
    reason = Keyword.fetch!(fields, :reason)

    %__MODULE__{
      reason: reason,
      message: Keyword.get_lazy(fields, :message, fn -> default_message(reason) end),
      scope: Keyword.get_lazy(fields, :scope, fn -> scope_of(reason) end),
      status: fields[:status],
      retry_after_ms: fields[:retry_after_ms]
    }
  end

  @impl true
  def message(%__MODULE__{message: message}) when is_binary(message), do: message
  def message(%__MODULE__{reason: reason}), do: default_message(reason)

  # What stands for an error on the wire.
  @doc false
  @spec to_wire(reason, String.t() | nil, non_neg_integer | nil) :: map
  def to_wire(reason, message, retry_after_ms) do
    wire = %{
      "status" => Keyword.fetch!(@codes, reason),
      "code" => Atom.to_string(reason),
      "scope" => reason |> scope_of() |> Atom.to_string(),
      "message" => message || default_message(reason)
    }

    if retry_after_ms, do: Map.put(wire, "retry_after_ms", retry_after_ms), else: wire
  end

  @doc false
  @spec wire?(atom) :: boolean
  def wire?(reason), do: Keyword.has_key?(@codes, reason)

  # The error map of a response, as decoded from the wire.
  @doc false
  @spec from_wire(term) :: t
  def from_wire(%{} = map) do
    reason = reason_of(map["code"])

    %__MODULE__{
      reason: reason,
      message: text(map["message"], reason),
      scope: scope(map["scope"], reason),
      status: integer(map["status"]),
      retry_after_ms: integer(map["retry_after_ms"])
    }
  end

  def from_wire(other) do
    exception(
      reason: :protocol_error,
      message: "sched-port answered with an error that is not a map: #{inspect(other, limit: 5)}"
    )
  end

  for {reason, _status} <- @codes do
    defp reason_of(unquote(Atom.to_string(reason))), do: unquote(reason)
  end

  defp reason_of(_other), do: :unknown

  for name <- [:request, :model, :device, :scheduler] do
    defp scope(unquote(Atom.to_string(name)), _reason), do: unquote(name)
  end

  defp scope(_other, reason), do: scope_of(reason)

  for {reason, status} <- @codes do
    scope =
      cond do
        status > -200 -> :request
        status > -300 -> :model
        status > -400 -> :device
        true -> :scheduler
      end

    defp scope_of(unquote(reason)), do: unquote(scope)
  end

  defp scope_of(_reason), do: :scheduler

  defp integer(value) when is_integer(value), do: value
  defp integer(_value), do: nil

  # A message is copied: it must not keep the frame alive that it came in.
  defp text(message, _reason) when is_binary(message) and message != "", do: :binary.copy(message)
  defp text(_message, reason), do: default_message(reason)

  defp default_message(:invalid_argument), do: "the request is not acceptable"
  defp default_message(:deadline_exceeded), do: "the request was not done within its timeout"
  defp default_message(:cancelled), do: "the request was cancelled"
  defp default_message(:too_large), do: "the request is larger than a limit"
  defp default_message(:poisoned), do: "the request ended its worker twice when it ran alone"
  defp default_message(:not_found), do: "there is nothing of that name"

  defp default_message(:client_limit),
    do: "the client has as many requests waiting as one may; come back later"

  defp default_message(:time_limit), do: "the job ran into its time limit"
  defp default_message(:unknown_model), do: "no model of that name is loaded"
  defp default_message(:model_not_ready), do: "the model is still loading"
  defp default_message(:bad_model), do: "the model cannot be loaded"
  defp default_message(:already_loaded), do: "a model of that name is loaded already"
  defp default_message(:engine_failed), do: "the engine failed"

  defp default_message(:queue_full), do: "the queue of the model is full; come back later"
  defp default_message(:no_device), do: "there is no such device, or it cannot be used"
  defp default_message(:device_lost), do: "the device failed while the work ran on it"
  defp default_message(:out_of_device_memory), do: "the device has not enough memory"

  defp default_message(:overloaded),
    do: "too much is in flight; come back later, or wait with overload: :wait"

  defp default_message(:closing), do: "the scheduler is shutting down"
  defp default_message(:out_of_memory), do: "the host has no memory left"
  defp default_message(:system_error), do: "a system call failed"
  defp default_message(:not_supported), do: "this is not supported"

  defp default_message(:protocol_error),
    do: "sched-port and this client do not understand each other"

  defp default_message(:unavailable), do: "the scheduler is not there at the moment"
  defp default_message(:job_lost), do: "the scheduler of the job ended, and the job with it"
  defp default_message(:start_failed), do: "sched-port could not be started"
  defp default_message(:port_not_found), do: "sched-port was not found on this machine"
  defp default_message(:unknown), do: "an error of a kind that this version does not know"
end
