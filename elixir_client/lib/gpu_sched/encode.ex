# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Encode do
  # A request, from what the caller wrote to the message that goes to the port; done by the caller.
  #
  # Where tensors go by a lease, the message waits for its number: the body is then a list of
  # iodata in which the atom :lease stands for it (see lease/2).
  @moduledoc false

  alias GpuSched.{Admission, Context, Error, Models, Msgpack, Options, Pieces, Tensor}

  # Below this a body is made into one binary, so that handing it to the owner of the port copies
  # a reference and not a tree.
  @flatten 16 * 1024
  @align 64
  # More than the head of a message takes, in bytes and in values.
  @head 64
  # The longest name of a client that the port takes.
  @max_client 63

  defstruct [:entries, :body, :bytes, :lease, uploads: [], upload_bytes: 0]

  @type upload :: {offset :: non_neg_integer, binary | [binary]}
  @type t :: %__MODULE__{
          entries: pos_integer,
          body: iodata | [iodata | :lease],
          bytes: non_neg_integer,
          lease: non_neg_integer | nil,
          uploads: [upload],
          upload_bytes: non_neg_integer
        }

  # Without an owner it does not say whose share it is, unless the options do.
  @spec request(Context.t(), term, term, Options.t(), pid | nil, boolean) ::
          {:ok, t} | {:error, Error.t()}
  def request(%Context{} = ctx, model, inputs, opts, owner, leases? \\ true) do
    lease_min = if leases?, do: Admission.lease_min(ctx.counters), else: 0
    {n, head} = head(model, opts, opts.client || ctx.client || (owner && share(node(owner))))
    {body, uploads, size} = inputs(inputs, lease_min)

    request =
      if uploads == [],
        do: whole(n, [head | body]),
        else: leased(n, head, body, uploads, size)

    with :ok <- check_size(ctx, request.bytes - request.upload_bytes, inputs), do: {:ok, request}
  catch
    {Msgpack, path, what} -> {:error, refused(path, what)}
  end

  defp whole(n, body) do
    bytes = IO.iodata_length(body)
    body = if bytes <= @flatten, do: IO.iodata_to_binary(body), else: body
    %__MODULE__{entries: n, body: body, bytes: bytes}
  end

  defp leased(n, head, segments, uploads, size) do
    bytes = Enum.reduce(segments, size, fn s, sum -> sum + segment_length(s) end)

    %__MODULE__{
      entries: n,
      body: [head | segments],
      bytes: bytes,
      uploads: uploads,
      upload_bytes: size
    }
  end

  # A frame that is beyond a limit of the port is refused as a whole, hence never sent. `bytes` values
  # are the most that so many bytes hold.
  defp check_size(ctx, bytes, inputs) do
    max_frame = Admission.max_frame(ctx.counters)
    max_values = Admission.max_values(ctx.counters)

    cond do
      bytes + @head > max_frame ->
        too_large(
          "is #{bytes} bytes long, and a frame takes #{max_frame}",
          ", or raise the option max_frame_bytes of sched-port"
        )

      bytes + @head > max_values and Msgpack.count(inputs) + @head > max_values ->
        too_large("has #{Msgpack.count(inputs)} values, and a frame takes #{max_values}", "")

      true ->
        :ok
    end
  end

  defp too_large(what, more) do
    message =
      "the request #{what}: send large inputs as " <>
        ~s(%{"datatype", "shape", "data"} with a binary) <> more

    {:error, Error.exception(reason: :too_large, message: message)}
  end

  defp segment_length(:lease), do: 9
  defp segment_length(iodata), do: IO.iodata_length(iodata)

  # The message, once everything is known.
  @spec message(t, non_neg_integer, non_neg_integer | nil) :: iodata | [iodata | :lease]
  def message(%__MODULE__{uploads: []} = request, id, deadline) do
    head = GpuSched.Protocol.infer_head(id, request.entries, deadline)

    if is_binary(request.body),
      do: <<head::binary, request.body::binary>>,
      else: [head | request.body]
  end

  def message(%__MODULE__{} = request, id, deadline),
    do: [GpuSched.Protocol.infer_head(id, request.entries, deadline) | request.body]

  # Puts the lease's number where it belongs.
  @spec lease([iodata | :lease], non_neg_integer) :: iodata
  def lease(segments, lease) do
    number = <<0xCF, lease::64>>

    Enum.map(segments, fn
      :lease -> number
      iodata -> iodata
    end)
  end

  # ---- the entries of the map, but for the deadline and the inputs

  # The client that a node's requests count to. Where its name is too long the same beginning and a
  # hash stand for it, always the same ones.
  @spec share(node) :: String.t()
  def share(node) do
    case Atom.to_string(node) do
      name when byte_size(name) <= @max_client ->
        name

      name ->
        hash = name |> :erlang.md5() |> binary_part(0, 8) |> Base.encode16(case: :lower)
        binary_part(name, 0, @max_client - 1 - byte_size(hash)) <> "~" <> hash
    end
  end

  defp head(model, opts, client) do
    name = model_name(model)

    {n, acc} =
      {1, [<<0xA5, "model">>, Msgpack.str(name)]}
      |> entry(client, "client", &Msgpack.str/1)
      |> entry(opts.priority, "priority", &Msgpack.int/1)
      |> entry(opts.credit, "parts", &Msgpack.int/1)
      |> entry(opts.parameters, "parameters", &Models.parameters(&1, ["parameters"]))

    {n + 1, [acc, <<0xA6, "inputs">>]}
  end

  defp entry(acc, nil, _name, _encode), do: acc
  defp entry({n, acc}, value, name, encode), do: {n + 1, [acc, Msgpack.str(name), encode.(value)]}

  defp model_name(name) when is_binary(name), do: name
  defp model_name(name) when is_atom(name) and name != nil, do: Atom.to_string(name)

  defp model_name(other),
    do: Msgpack.refuse(["model"], Msgpack.kind(other) <> " where the name of a model belongs")

  # ---- the inputs

  defp inputs(inputs, lease_min) when is_map(inputs) and not is_struct(inputs) do
    {segments, uploads, size} =
      Enum.reduce(inputs, {[], [], 0}, fn {name, value}, acc ->
        input(name, value, lease_min, acc)
      end)

    {[Msgpack.map_header(map_size(inputs)) | :lists.reverse(segments)], uploads, size}
  end

  defp inputs(%module{}, _lease_min) do
    what = "a struct (#{inspect(module)}) where a map from names to tensors belongs"
    Msgpack.refuse(["inputs"], what)
  end

  defp inputs(other, _lease_min) do
    Msgpack.refuse(
      ["inputs"],
      Msgpack.kind(other) <> " where a map from names to tensors belongs"
    )
  end

  defp input(name, value, lease_min, {segments, uploads, size}) do
    name = input_name(name)

    case Tensor.read(value, [name, "inputs"]) do
      {:nested, term} ->
        {[[Msgpack.str(name) | Msgpack.encode!(term, [name, "inputs"])] | segments], uploads,
         size}

      {:tensor, datatype, shape, data}
      when is_binary(data) and lease_min > 0 and byte_size(data) >= lease_min ->
        leased_input({name, datatype, shape}, data, byte_size(data), {segments, uploads, size})

      {:tensor, datatype, shape, %Pieces{list: list, size: n}}
      when lease_min > 0 and n >= lease_min ->
        leased_input({name, datatype, shape}, list, n, {segments, uploads, size})

      {:tensor, datatype, shape, %Pieces{} = pieces} ->
        {[tensor(name, datatype, shape, Pieces.join(pieces)) | segments], uploads, size}

      {:tensor, datatype, shape, data} ->
        {[tensor(name, datatype, shape, data) | segments], uploads, size}
    end
  end

  defp leased_input({name, datatype, shape}, data, n, {segments, uploads, size}) do
    {before, rest} = leased_tensor(name, datatype, shape, n, size)
    {[rest, :lease, before | segments], [{size, data} | uploads], aligned(size + n)}
  end

  defp input_name(name) when is_binary(name), do: name
  defp input_name(name) when is_atom(name), do: Atom.to_string(name)
  defp input_name(other), do: Msgpack.refuse(["inputs"], "the name #{inspect(other, limit: 5)}")

  defp tensor(name, datatype, shape, data) do
    [
      Msgpack.str(name),
      <<0x83, 0xA8, "datatype">>,
      Msgpack.str(datatype),
      <<0xA5, "shape">>,
      shape(shape),
      <<0xA4, "data">>
      | Msgpack.encode!(data, ["data", name, "inputs"])
    ]
  end

  defp leased_tensor(name, datatype, shape, n, offset) do
    {[
       Msgpack.str(name),
       <<0x85, 0xA8, "datatype">>,
       Msgpack.str(datatype),
       <<0xA5, "shape">>,
       shape(shape),
       <<0xA5, "lease">>
     ],
     [
       <<0xA6, "offset">>,
       Msgpack.int(offset),
       <<0xA4, "size">>,
       Msgpack.int(n)
     ]}
  end

  defp shape(shape), do: [Msgpack.array_header(length(shape)) | Enum.map(shape, &Msgpack.int/1)]

  defp aligned(size), do: div(size + @align - 1, @align) * @align

  # `path` is reversed, as Msgpack.refuse/2 has it.
  @spec refused(Msgpack.path(), String.t()) :: Error.t()
  def refused(path, what) do
    path = path |> Enum.reverse() |> Msgpack.format_path()
    Error.exception(reason: :invalid_argument, message: "#{path}: this cannot be sent: #{what}")
  end
end
