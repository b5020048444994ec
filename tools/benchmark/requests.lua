-- What wrk sends for `doors`: requests of one kind, each of a key of its own.
--
--   wrk ... -s requests.lua URL -- KIND THREADS [FILE [LINES]]
--
-- KIND: `put` and `get` of 4 KiB objects, whose addresses are lines of FILE (the first LINES of them; a thread takes every
-- THREADS-th of them, again and again); `kv`, a value of 100 bytes by Ashlar's HTTP; `etcd`, the same by etcd's JSON
-- gateway. Prints what came of it as a line of JSON.

local threads = {}
local value = ("v"):rep(100)

function setup(thread)
   thread:set("id", #threads)
   table.insert(threads, thread)
end

function init(args)
   kind, count, sent, run = args[1], tonumber(args[2]), 0, os.time()
   -- Before it begins, wrk asks the first thread for a request that it does not send.
   probed = id ~= 0
   host = wrk.headers["Host"]
   paths = {}
   if args[3] then
      local number, most = 0, tonumber(args[4])
      for line in io.lines(args[3]) do
         if most and number >= most then break end
         if number % count == id then table.insert(paths, line) end
         number = number + 1
      end
   end
   object = ("o"):rep(4096)
end

local function message(method, path, body)
   local length = body and "Content-Length: " .. #body .. "\r\n" or ""
   return method .. " " .. path .. " HTTP/1.1\r\nHost: " .. host .. "\r\n" .. length .. "\r\n" .. (body or "")
end

-- In base64, of as many bytes as need no padding.
local LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local function base64(text)
   local out = {}
   for at = 1, #text, 3 do
      local a, b, c = text:byte(at, at + 2)
      local word = a * 65536 + b * 256 + c
      for shift = 3, 0, -1 do
         local digit = math.floor(word / 64 ^ shift) % 64 + 1
         out[#out + 1] = LETTERS:sub(digit, digit)
      end
   end
   return table.concat(out)
end
local value64 = base64(value:sub(1, 99)) .. "dg=="

function request()
   if probed then sent = sent + 1 end
   probed = true
   if kind == "put" then return message("PUT", paths[(sent - 1) % #paths + 1], object) end
   if kind == "get" then return message("GET", paths[(sent - 1) % #paths + 1]) end
   local key = ("%d%02d%09d"):format(run, id, sent)
   if kind == "kv" then return message("PUT", "/kv/0/" .. key, value) end
   return message("POST", "/v3/kv/put", '{"key":"' .. base64(key) .. '","value":"' .. value64 .. '"}')
end

function done(summary, latency)
   local counts = {}
   for _, thread in ipairs(threads) do table.insert(counts, thread:get("sent")) end
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(("{\"answered\":%d,\"seconds\":%f,\"failed\":%d,\"p50_ms\":%f,\"p99_ms\":%f,\"max_ms\":%f,\"sent\":[%s]}\n"):format(
      summary.requests, summary.duration / 1e6, failed, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      latency.max / 1e3, table.concat(counts, ",")))
end
