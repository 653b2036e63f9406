-- Make Redis agree with the learner's disk, whatever either has lost.
--
-- after   fence.lua
-- ARGV    3... the wanted numbers: open on the learner's disk
-- answer  the wanted numbers that Redis still has, each with exactly one task or result
-- repeat  harmless
--
-- Afterwards outstanding and the streams hold exactly the numbers in the answer, the consumer
-- group exists and the marker is the caller's.

-- Needs no memory, and after its first write a script may go on at maxmemory: so a full Redis can
-- still be reconciled, which empties it.
redis.call('DEL', incarnation_key)

local wanted = {}
for i = 3, #ARGV do
  wanted[ARGV[i]] = true
end

local has, answer = {}, {}

-- Every entry starts with the field n; two entries for one number cannot both be pointed at.
local function sweep(stream, letter)
  local from = '-'
  while from do
    local entries = redis.call('XRANGE', stream, from, '+', 'COUNT', 16)
    from = nil
    for _, entry in ipairs(entries) do
      local id, number = entry[1], entry[2][2]
      local held = letter .. ':' .. id
      if wanted[number] and redis.call('HGET', outstanding, number) == held then
        has[number] = true
        answer[#answer + 1] = number
      else
        remove(held)
      end
      from = '(' .. id
    end
  end
end

sweep(tasks, 't')
sweep(results, 'r')
for _, number in ipairs(redis.call('HKEYS', outstanding)) do
  if not has[number] then
    redis.call('HDEL', outstanding, number)
  end
end

redis.pcall('XGROUP', 'CREATE', tasks, 'workers', '0', 'MKSTREAM') -- BUSYGROUP: it is there
redis.call('SET', epoch_key, epoch)
redis.call('SET', incarnation_key, incarnation)
return answer
