# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Upload do
  # Large tensors on their way round the pipe: memory is leased from the port and written by the
  # process that has the data, so that neither the pipe nor the owner of the port carries it.
  #
  # Where the memory cannot be opened the bytes go through the pipe after all, in pieces that let
  # others pass, one under way at a time; where there is no lease to be had, in the message itself.
  @moduledoc false

  alias GpuSched.{Context, Encode, Error, Local, Msgpack, Protocol, Server}

  @piece 256 * 1024

  # Answers the request, which knows its lease now, and the ticket under which the
  # server keeps its credit. `whole` encodes the request without a lease.
  @spec run(Context.t(), Encode.t(), reference | nil, pid, Local.deadline(), fun) ::
          {:ok, Encode.t(), reference} | {:error, Error.t()}
  def run(ctx, request, ticket, owner, deadline, whole) do
    ticket = ticket || make_ref()

    case lease(ctx, request.upload_bytes, {ticket, request.bytes}, owner, deadline) do
      {:ok, lease} ->
        case write(ctx, lease, ticket, request.uploads, owner, deadline) do
          :ok ->
            {:ok, %{request | lease: lease["lease"]}, ticket}

          {:error, error} ->
            send(ctx.server, {:gs_give_up, ticket, lease["lease"]})
            {:error, error}
        end

      {:error, %Error{reason: reason} = error}
      when reason in [:deadline_exceeded, :unavailable, :closing] ->
        send(ctx.server, {:gs_give_up, ticket, nil})
        {:error, error}

      {:error, no_lease} ->
        through_the_pipe(ctx, ticket, whole, no_lease)
    end
  end

  defp through_the_pipe(ctx, ticket, whole, no_lease) do
    case whole.() do
      {:ok, request} ->
        {:ok, request, ticket}

      {:error, error} ->
        send(ctx.server, {:gs_give_up, ticket, nil})
        # Too large for the pipe: then that there is no memory to lease at the moment says more.
        {:error, if(no_lease.retry_after_ms, do: no_lease, else: error)}
    end
  end

  # Leases `size` bytes. `reservation` is `{ticket, bytes}` for the first time; nil when the server
  # has a request of ours already and its data is written again.
  @spec lease(Context.t(), pos_integer, {reference, pos_integer} | nil, pid, Local.deadline()) ::
          {:ok, map} | {:error, Error.t()}
  def lease(ctx, size, reservation, owner, deadline) do
    params = [Msgpack.map_header(1), Msgpack.str("size"), Msgpack.int(size)]

    with {:ok, lease} <-
           Server.call(ctx, "lease", 1, params, {:lease, reservation}, owner, deadline) do
      case lease do
        %{"lease" => n, "path" => path} when is_integer(n) and is_binary(path) -> {:ok, lease}
        _ -> {:error, Error.exception(reason: :protocol_error)}
      end
    end
  end

  # `ticket` is nil where the lease is that of a request which the server has already.
  @spec write(Context.t(), map, reference | nil, [Encode.upload()], pid, Local.deadline()) ::
          :ok | {:error, Error.t()}
  def write(ctx, lease, ticket, uploads, owner, deadline) do
    with {:error, _posix} <- write_memory(lease["path"], uploads) do
      Enum.reduce_while(uploads, :ok, fn {offset, data}, :ok ->
        data = IO.iodata_to_binary(data)

        case write_pieces(ctx, {lease["lease"], ticket}, offset, data, owner, deadline) do
          :ok -> {:cont, :ok}
          {:error, error} -> {:halt, {:error, error}}
        end
      end)
    end
  end

  # Without :read the file would be truncated, which its seals forbid.
  defp write_memory(path, uploads) do
    with {:ok, file} <- :file.open(path, [:read, :write, :raw, :binary]) do
      written = :file.pwrite(file, uploads)
      closed = :file.close(file)

      case written do
        :ok -> closed
        {:error, {_done, posix}} -> {:error, posix}
      end
    end
  end

  defp write_pieces(_ctx, _lease, _offset, <<>>, _owner, _deadline), do: :ok

  defp write_pieces(ctx, {number, ticket} = lease, offset, data, owner, deadline) do
    size = min(byte_size(data), @piece)
    <<piece::binary-size(size), rest::binary>> = data
    Server.lease_write(ctx, ticket, Protocol.lease_write(number, offset, piece))

    # The answer says that the piece has left the pipe.
    with {:ok, _} <- Server.call(ctx, "ping", 1, [Msgpack.int(0)], :plain, owner, deadline),
         do: write_pieces(ctx, lease, offset + size, rest, owner, deadline)
  end
end
