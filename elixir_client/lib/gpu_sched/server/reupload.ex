# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Server.Reupload do
  # The memory a request referred to has gone with the port that leased it: its data, which is still
  # referred to here, is written again, by a process of its own.
  @moduledoc false

  import GpuSched.Server.State, only: [entry: 1, entry: 2]

  alias GpuSched.{Encode, Error, Local, Protocol, Upload}
  alias GpuSched.Server.{Flight, State}

  @spec upload_again(State.t(), State.id(), State.entry()) :: State.t()
  def upload_again(%{status: :up} = state, id, entry(leased: {_lease, _segments, uploads})) do
    %{ctx: ctx} = state
    server = self()

    pid =
      spawn_link(fn ->
        Process.flag(:trap_exit, false)
        send(server, {:gs_uploaded, id, self(), upload(ctx, uploads)})
      end)

    %{state | uploaders: Map.put(state.uploaders, id, pid)}
  end

  def upload_again(state, _id, _e), do: state

  defp upload(ctx, uploads) do
    deadline = Local.deadline(60_000)

    size =
      uploads |> Enum.map(fn {offset, data} -> offset + IO.iodata_length(data) end) |> Enum.max()

    with {:ok, lease} <- Upload.lease(ctx, size, nil, self(), deadline),
         :ok <- Upload.write(ctx, lease, nil, uploads, self(), deadline),
         do: {:ok, lease["lease"]}
  end

  @spec uploaded(State.t(), State.id(), pid, {:ok, non_neg_integer} | {:error, Error.t()}) ::
          State.t()
  def uploaded(state, id, pid, result) do
    case state do
      %{uploaders: %{^id => ^pid}, pending: %{^id => e}} ->
        state = %{state | uploaders: Map.delete(state.uploaders, id)}
        entry(leased: {_lease, segments, uploads}) = e

        case result do
          {:ok, lease} when state.status in [:up, :closing] ->
            message = Protocol.put_id(Encode.lease(segments, lease), id)
            leased = {lease, segments, uploads}
            Flight.send_entry(state, id, entry(e, message: message, leased: leased))

          {:error, error} when state.status in [:up, :closing] ->
            Flight.fail(state, id, e, error)

          _ ->
            state
        end

      _ ->
        state
    end
  end

  @spec stop_uploader(State.t(), State.id()) :: State.t()
  def stop_uploader(state, id) do
    case Map.pop(state.uploaders, id) do
      {nil, _uploaders} ->
        state

      {pid, uploaders} ->
        Process.unlink(pid)
        Process.exit(pid, :kill)
        %{state | uploaders: uploaders}
    end
  end

  @spec upload_failed(State.t(), pid, term) :: State.t()
  def upload_failed(state, pid, reason) do
    case Enum.find(state.uploaders, fn {_id, uploader} -> uploader == pid end) do
      {id, _pid} when reason != :normal ->
        state = %{state | uploaders: Map.delete(state.uploaders, id)}

        error =
          Error.exception(reason: :unavailable, message: "its tensors could not be sent again")

        case state.pending do
          %{^id => e} -> Flight.fail(state, id, e, error)
          _ -> state
        end

      _ ->
        state
    end
  end
end
